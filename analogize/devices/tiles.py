"""How a weight matrix lies on crossbar tiles.

The matrix of a product has one row for each input of a column and one column for each output. A
convolution's rows are in im2col order, the input channel slowest: row = channel * taps + tap. A
matrix larger than a tile is cut into tiles of full height and width and a remainder; columns of one
tile share its inputs, rows of one tile share its analog sum. The blocks of a grouped convolution
share neither inputs nor outputs, so they lie on a diagonal: as many in a tile as its rows and
columns hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from analogize.product import Convolution, Product


@dataclass(frozen=True)
class Piece:
    """The part of a product that one row of tiles sums up.

    Attributes:
        product: how it is multiplied.
        first: its first input (channel within a group).
        last: one past its last input.
        mask: 0 for the taps of a boundary channel that lie in another tile, viewed against the
            piece's weights; None where all of them lie in this one.
    """

    product: Product
    first: int
    last: int
    mask: Tensor | None

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs of this piece, out of all inputs of the product."""
        if not isinstance(self.product, Convolution):
            return x[..., self.first : self.last]
        axis, groups = x.ndim - self.product.dimensions - 1, self.product.groups
        size = self.last - self.first
        if groups == 1:
            return x.narrow(axis, self.first, size)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        grouped = x.reshape(*before, groups, -1, *after).narrow(axis + 1, self.first, size)
        return grouped.reshape(*before, groups * size, *after)

    def weights(self, w: Tensor) -> Tensor:
        """The weights of this piece, out of all weights of the product."""
        if not isinstance(self.product, Convolution):
            return w[..., self.first : self.last]
        size, groups = self.last - self.first, self.product.groups
        if not self.product.transposed:
            part = w.narrow(1, self.first, size)
        elif groups == 1:
            part = w.narrow(0, self.first, size)
        else:
            part = w.reshape(groups, -1, *w.shape[1:]).narrow(1, self.first, size).flatten(0, 1)
        return part if self.mask is None else part * self.mask.to(part.device, part.dtype)

    def add_inputs(self, total: Tensor, part: Tensor) -> None:
        """Add ``part``, shaped as ``inputs`` gives, to its place in contiguous ``total``."""
        if not isinstance(self.product, Convolution):
            total[..., self.first : self.last].add_(part)
            return
        axis, groups = total.ndim - self.product.dimensions - 1, self.product.groups
        before, after = total.shape[:axis], total.shape[axis + 1 :]
        size = self.last - self.first
        place = total.view(*before, groups, -1, *after).narrow(axis + 1, self.first, size)
        place.add_(part.reshape(place.shape))

    def add_weights(self, total: Tensor, part: Tensor) -> None:
        """Add ``part``, shaped as ``weights`` gives, to its place in contiguous ``total``."""
        if not isinstance(self.product, Convolution):
            total[..., self.first : self.last].add_(part)
            return
        if self.mask is not None:
            part = part * self.mask.to(part.device, part.dtype)
        size, groups = self.last - self.first, self.product.groups
        if not self.product.transposed:
            total.narrow(1, self.first, size).add_(part)
            return
        place = total.view(groups, -1, *total.shape[1:]).narrow(1, self.first, size)
        place.add_(part.reshape(place.shape))


def pieces(product: Product, shape: torch.Size, rows: int) -> tuple[Piece, ...]:
    """Cut the matrix of ``product`` with weights of ``shape`` into tiles of ``rows`` rows."""
    _, height, _ = product.matrix(shape)
    taps = prod(shape[2:]) if isinstance(product, Convolution) else 1
    found = []
    for start in range(0, height, rows):
        end = min(start + rows, height)
        first, last = start // taps, ceil(end / taps)
        inside = torch.arange(first * taps, last * taps)
        held = (inside >= start) & (inside < end)
        mask = None
        if not bool(held.all()) and isinstance(product, Convolution):
            mask = _view(product, held.float().view(last - first, *shape[2:]))
        found.append(Piece(product, first, last, mask))
    return tuple(found)


def _view(product: Convolution, held: Tensor) -> Tensor:
    if not product.transposed:
        return held.unsqueeze(0)
    # A group's inputs lie along the first dimension, once for every group.
    return held.unsqueeze(1).repeat(product.groups, *[1] * (held.ndim))


def blocks_a_tile(product: Product, shape: torch.Size, rows: int, cols: int) -> int:
    """How many blocks of the matrix share a tile diagonally: min(rows // K, cols // N), or 0."""
    _, height, width = product.matrix(shape)
    return min(rows // height, cols // width)


def count(product: Product, shape: torch.Size, rows: int, cols: int) -> int:
    """How many tiles of ``rows`` x ``cols`` the weights take; blocks that fit share one."""
    groups, height, width = product.matrix(shape)
    together = blocks_a_tile(product, shape, rows, cols)
    if together > 1:
        return ceil(groups / together)
    return groups * ceil(height / rows) * ceil(width / cols)
