"""IR drop: what the resistance of a tile's wires takes from its cells.

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
conductance, on the networks solved in tests/devices/test_wires.py. Beyond, the network is solved
(nodal.py), which takes 1.6 s of a core for a tile of 256 x 256.

The two devices of a differential pair, several pairs, and the digits of a sliced weight lie on
tiles of their own, in the same places. Cells that hold no weight carry no current; the used ones
are those nearest to the drivers and the ADCs. Not modelled: drivers and ADCs with resistance,
selectors, cells that are no resistors.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from analogize.devices.layout import Layout
from analogize.devices.nodal import effective
from analogize.devices.placing import from_tiles, on_tiles

LARGEST_LOSS = 1.0
Solver = Literal["auto", "first_order", "nodal"]


def ir_drop(
    conductance: Tensor,
    layout: Layout,
    row_segment: float,
    column_segment: float,
    solver: Solver = "auto",
) -> Tensor:
    """The conductances that cells seem to have behind wires with resistance; see the module.

    Args:
        conductance: in microsiemens, shape (devices, *weights).
        layout: where the weights lie.
        row_segment: ohms of a row's wire from one cell to the next.
        column_segment: ohms of a column's wire from one cell to the next.
        solver: ``first_order`` is G / (1 + loss), ``nodal`` the solved network; ``auto`` is the
            first where no loss exceeds ``LARGEST_LOSS``, and the second beyond.

    Raises:
        ValueError: ``first_order``, and a loss beyond ``LARGEST_LOSS``.
    """
    if solver == "nodal":
        return _solved(conductance, layout, row_segment, column_segment)
    along_row, along_column = layout.along_wires(conductance)
    loss = (along_row * row_segment).add_(along_column, alpha=column_segment).mul_(1e-6)
    if torch.compiler.is_compiling():  # a graph cannot branch on a value, but it can stop at one
        torch._assert_async(loss.max() <= LARGEST_LOSS, "IR drop: a loss above 1")
    elif (worst := float(loss.max())) > LARGEST_LOSS:
        if solver == "auto":
            return _solved(conductance, layout, row_segment, column_segment)
        raise ValueError(
            f"the first-order loss along the wires reaches {worst:.3g}, and the approximation "
            f"holds up to {LARGEST_LOSS:g}; use solver: nodal, smaller tiles (array.rows, "
            "array.cols), less resistance, or smaller conductances"
        )
    return conductance / loss.add_(1)


def _solved(conductance: Tensor, layout: Layout, row: float, column: float) -> Tensor:
    tiles = on_tiles(layout, conductance.double() * 1e-6)
    found = effective(tiles.flatten(0, 1), row, column).view(tiles.shape)
    return (from_tiles(layout, found) * 1e6).to(conductance.dtype)
