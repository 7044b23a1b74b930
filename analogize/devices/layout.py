"""Where the weights of one array lie on tiles, and sums along the wires there."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.devices.tiles import blocks_a_tile
from analogize.product import Product, from_channels, per_channel


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
