"""Digital correction of drift: one factor on an array's output, on a tile's, or on a column's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.devices.layout import Layout
from analogize.devices.tiles import blocks_a_tile
from analogize.product import BatchedLinear, Convolution, Product, from_channels, per_channel

Rule = Literal["global", "tile", "column"]


def factors(
    reference: Tensor, drifted: Tensor, product: Product, rule: Rule, layout: Layout | None = None
) -> Tensor:
    """What the output of a drifted array is multiplied by.

    The ratio of summed absolute outputs at the reference time and now (Joshi et al., Nature
    Communications 11:2473, 2020). They calibrate with data; here every row is read alone, with a
    unit input (as aihwkit's GlobalDriftCompensation does), which needs no data, so the sums are
    those of the absolute weights.

    Args:
        reference: the weights read at the reference time, as one reading finds them.
        drifted: the same weights read now, in the same unit, likewise.
        product: how they lie in the array.
        rule: one factor for the array, for each tile, or for each output channel.
        layout: where on tiles the weights lie; needed for ``"tile"``.

    Returns:
        0-d; one value an output channel; or (rows of tiles, output channels), alike for the columns
        of a tile. What reads zero keeps the factor 1.
    """
    before, now = (sums(weights, product, rule, layout) for weights in (reference, drifted))
    return ratio(before, now)


def sums(weights: Tensor, product: Product, rule: Rule, layout: Layout | None = None) -> Tensor:
    """The summed absolute weights that ``rule`` compares; shapes as what ``factors`` returns."""
    if rule == "tile":
        assert layout is not None, "the target's schema asks for it"
        return _of_tiles(weights, layout)
    columns = per_channel(product, weights).abs().sum(1)
    return columns.sum() if rule == "global" else columns


def ratio(before: Tensor, now: Tensor) -> Tensor:
    """The factors, from what ``sums`` gave of the reference time and of now."""
    return (before / now).where((now > 0) & (before > 0), before.new_ones(()))


def _of_tiles(weights: Tensor, layout: Layout) -> Tensor:
    """The sum of absolute weights of every tile: shape (rows of tiles, output channels)."""
    groups, height, width = layout.product.matrix(layout.shape)
    absolute = per_channel(layout.product, weights).abs().view(groups, width, height)
    together = blocks_a_tile(layout.product, layout.shape, layout.rows, layout.cols)
    if together > 1:
        each = F.pad(absolute.sum((1, 2)), (0, -groups % together)).view(-1, together)
        sums = each.sum(1).repeat_interleave(together)[:groups]
        return sums.repeat_interleave(width).unsqueeze(0)
    filled = F.pad(absolute, (0, -height % layout.rows, 0, -width % layout.cols))
    across, down = filled.shape[1] // layout.cols, filled.shape[2] // layout.rows
    sums = filled.view(groups, across, layout.cols, down, layout.rows).sum((2, 4))
    columns = sums.repeat_interleave(layout.cols, 1)[:, :width]
    return columns.reshape(groups * width, down).t()


def against_weights(factor: Tensor, layout: Layout) -> Tensor:
    """Factors of tiles, (rows of tiles, output channels), against the weights they act on."""
    _, height, _ = layout.product.matrix(layout.shape)
    rows = factor.t().repeat_interleave(layout.rows, 1)[:, :height]
    return from_channels(layout.product, rows.contiguous(), layout.shape)


def is_of_tiles(correction: Tensor | None, product: Product) -> bool:
    """Whether ``correction``, viewed against the output, has rows of tiles first."""
    if correction is None:
        return False
    match product:
        case Convolution():
            viewed = 1 + product.dimensions
        case BatchedLinear():
            viewed = 2 + len(product.batch)
        case _:
            viewed = 1
    return correction.ndim > viewed


def viewed(factor: Tensor, product: Product) -> Tensor:
    """What ``factors`` found, viewed against the product's output."""
    if factor.ndim == 2:
        return torch.stack([product.output_channels(row) for row in factor])
    return product.output_channels(factor) if factor.ndim else factor
