"""IR drop: what the resistance of a tile's wires takes from its cells, to first order.

    column j = 1     2     3            inputs drive the rows from the left, ADCs hold the
    row 3  >--o--r--o--r--o             columns' lower ends at ground; every segment of wire
              |     |     |             between two cells, and before the first one, has a
    row 2  >--o-----o-----o             resistance r
              |     |     |
    row 1  >--o-----o-----o
              |     |     |
             ADC   ADC   ADC

Through wires without resistance cell (i, j) carries G_ij V_i. These currents make the voltage along
row i fall by r_row sum_m min(j, m) G_im V_i before cell (i, j), and lift column j by r_col sum_m
min(i, m) G_mj V_m at it. Put back into the cells' currents, and sorted by the input that they are
proportional to, that is a change of conductances (the network is linear, so inputs do not matter)::

    G_ij  ->  G_ij / (1 + loss_ij)
    loss_ij = r_row sum_m min(j, m) G_im + r_col sum_m min(i, m) G_mj

an APPROXIMATION: equal to the solution of the resistor network (Kirchhoff's laws) in the first
order of r, and for a single cell in every order. Where the loss is at most 1 the conductance is off
by less than a quarter of the square of the tile's largest loss, and by less than 5 % of its largest
conductance, on the networks solved in tests/devices/test_wires.py.

The two devices of a differential pair, several pairs, and the digits of a sliced weight lie on
tiles of their own, in the same places. Cells that hold no weight carry no current; the used ones
are those nearest to the drivers and the ADCs. Not modelled: drivers and ADCs with resistance,
selectors, cells that are no resistors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.devices.tiles import blocks_a_tile
from analogize.product import Product, from_channels, per_channel

LARGEST_LOSS = 1.0


@dataclass(frozen=True)
class Layout:
    """Where on tiles the weights of one array lie.

    Attributes:
        product: how the weights are multiplied.
        shape: of the weights.
        rows: of a tile.
        cols: of a tile.
    """

    product: Product
    shape: torch.Size
    rows: int
    cols: int

    def along_wires(self, conductance: Tensor) -> tuple[Tensor, Tensor]:
        """sum_m min(j, m) G_im along every cell's row, and sum_m min(i, m) G_mj along its column.

        Args:
            conductance: shape (devices, *weights); every device of a weight is on another tile.

        Returns:
            Both of the shape of ``conductance``.
        """
        groups, height, width = self.product.matrix(self.shape)
        matrices = torch.stack([per_channel(self.product, each) for each in conductance])
        matrix = matrices.view(-1, groups, width, height)
        together = blocks_a_tile(self.product, self.shape, self.rows, self.cols)
        if together > 1:
            place = torch.arange(groups, device=matrix.device) % together
            place = place.view(-1, 1, 1).to(matrix.dtype)
            sums = _along(matrix, -2, place * width), _along(matrix, -1, place * height)
        else:
            sums = self._on_tiles(matrix)
        return self._as_weights(sums[0]), self._as_weights(sums[1])

    def _on_tiles(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Both sums of a matrix (devices, groups, columns, rows) that is cut into tiles."""
        width, height = matrix.shape[-2:]
        across, down = ceil(width / self.cols), ceil(height / self.rows)
        missing = (0, down * self.rows - height, 0, across * self.cols - width)
        size = (*matrix.shape[:-2], across, self.cols, down, self.rows)
        tiles = F.pad(matrix, missing).view(size)
        whole = (*matrix.shape[:-2], across * self.cols, down * self.rows)
        along_row, along_column = _along(tiles, -3).view(whole), _along(tiles, -1).view(whole)
        return along_row[..., :width, :height], along_column[..., :width, :height]

    def _as_weights(self, matrix: Tensor) -> Tensor:
        rows = matrix.flatten(1, 2)
        return torch.stack([from_channels(self.product, each, self.shape) for each in rows])


def _along(conductance: Tensor, dim: int, before: Tensor | float = 0.0) -> Tensor:
    """sum_m min(k, m) G_m for every place k = before + 1, before + 2, ... along ``dim``.

    A segment carries the current of all cells behind it; a cell sees the segments before it.
    """
    total = conductance.sum(dim, keepdim=True)
    behind = total - conductance.cumsum(dim) + conductance
    return behind.cumsum_(dim).add_(total * before)


def ir_drop(
    conductance: Tensor, layout: Layout, row_segment: float, column_segment: float
) -> Tensor:
    """G / (1 + loss), the first-order effect of wires with resistance; see the module.

    Args:
        conductance: in microsiemens, shape (devices, *weights).
        layout: where the weights lie.
        row_segment: ohms of a row's wire from one cell to the next.
        column_segment: ohms of a column's wire from one cell to the next.

    Raises:
        ValueError: the loss of a cell exceeds ``LARGEST_LOSS``, where the approximation ends.
    """
    along_row, along_column = layout.along_wires(conductance)
    loss = (along_row * row_segment).add_(along_column, alpha=column_segment).mul_(1e-6)
    if torch.compiler.is_compiling():  # a graph cannot branch on a value, but it can stop at one
        torch._assert_async(loss.max() <= LARGEST_LOSS, "IR drop: a loss above 1")
    elif (worst := float(loss.max())) > LARGEST_LOSS:
        raise ValueError(
            f"the first-order loss along the wires reaches {worst:.3g}, and the approximation "
            f"holds up to {LARGEST_LOSS:g}; use smaller tiles (array.rows, array.cols), less "
            "resistance, or smaller conductances"
        )
    return conductance / loss.add_(1)
