"""The resistor network of a tile, solved: Kirchhoff's laws at every crossing.

A tile has two nodes at a crossing, on the row's wire (voltage u) and on the column's (v), joined by
the cell G_ij; neighbours on a wire are joined by its segments, g_r and g_c = 1 / ohms. Row i is
driven with V_i through a segment before column 0, column j held at ground through one below row 0.
The network is linear, so what it carries is a matrix again: I_j = sum_i E_ij V_i.

E is found by eliminating one column of the tile after the other, from the far end. With D_j the
cells of column j on a diagonal and L the Laplacian of its wire (and the ground), the nodes v_j go::

    T_j = D_j + g_c L,   S_j = D_j - D_j T_j^-1 D_j,   I_j = (g_c D_j T_j^-1 e_0)^T u_j = c_j^T u_j

and then the nodes u_j, of which the next ones only see an admittance Y_j::

    u_j = P_j u_j-1,  P_j = g_r (g_r + Y_j)^-1,  Y_j-1 = S_j-1 + g_r (1 - P_j),  Y_last = S_last
    E_j = P_0 ... P_j c_j

Dense matrices of one column's size, R^3 C steps for a tile of R x C, in double precision and for
many tiles at once; SciPy's sparse LU, with a right-hand side a row, took three times as long at 64
and at 128 (0.45 s to 0.13 s on one core). By reciprocity the tile can be turned round, so that R is
the smaller side.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Elements of the matrices that are held at once.
_LARGEST = 2**22


def effective(cells: Tensor, row_segment: float, column_segment: float) -> Tensor:
    """E, the conductances that a tile seems to have behind its wires.

    Args:
        cells: conductances in siemens, shape (tiles, rows, columns), double precision; 0 where
            there is no cell.
        row_segment: ohms of a row's wire from one cell to the next.
        column_segment: ohms of a column's wire from one cell to the next.

    Returns:
        Shape (tiles, rows, columns): what a volt at each row drives out of each column.
    """
    if not row_segment and not column_segment:
        return cells
    if cells.shape[1] > cells.shape[2]:
        return effective(cells.mT, column_segment, row_segment).mT
    at_once = max(1, _LARGEST // (cells.shape[1] * max(cells.shape[1:])))
    parts = torch.split(cells, at_once)
    return torch.cat([_eliminate(part, row_segment, column_segment) for part in parts])


def _eliminate(cells: Tensor, row_segment: float, column_segment: float) -> Tensor:
    rows, columns = cells.shape[1:]
    found = torch.empty_like(cells)
    laplacian = _laplacian(rows).to(cells)
    behind: Tensor | None = None
    for j in reversed(range(columns)):
        admittance, found[:, :, j] = _column(cells[:, :, j], laplacian, column_segment)
        if not row_segment:
            continue
        if behind is not None:
            admittance = admittance + behind
        g = 1 / row_segment
        factor = torch.linalg.cholesky(admittance + g * torch.eye(rows).to(cells))
        passed = g * torch.cholesky_inverse(factor)
        found[:, :, j:] = passed @ found[:, :, j:]
        behind = g * (torch.eye(rows).to(cells) - passed)
    return found


def _column(cells: Tensor, laplacian: Tensor, segment: float) -> tuple[Tensor, Tensor]:
    """S and c of one column; shapes (tiles, rows, rows) and (tiles, rows)."""
    diagonal = torch.diag_embed(cells)
    if not segment:
        return diagonal, cells
    g = 1 / segment
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(diagonal + g * laplacian))
    lost = cells.unsqueeze(-1) * inverse * cells.unsqueeze(-2)
    return diagonal - lost, g * cells * inverse[:, 0]


def _laplacian(rows: int) -> Tensor:
    """Of a wire with so many nodes in a row, the first of them joined to the ground."""
    whole = 2 * torch.eye(rows, dtype=torch.float64)
    whole -= torch.diag(torch.ones(rows - 1, dtype=torch.float64), 1)
    whole -= torch.diag(torch.ones(rows - 1, dtype=torch.float64), -1)
    whole[-1, -1] = 1
    return whole
