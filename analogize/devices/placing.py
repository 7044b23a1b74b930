"""Cells where they lie: the weights of an array as matrices of its tiles, and back.

A tile is cut down to what is used of it: the rows nearest to the ADCs, the columns nearest to the
drivers. Blocks of a grouped product that share a tile lie on its diagonal (tiles.py); places
without a cell hold 0.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.devices.layout import Layout
from analogize.devices.tiles import blocks_a_tile
from analogize.product import from_channels, per_channel


def on_tiles(layout: Layout, cells: Tensor) -> Tensor:
    """The cells of every tile: shape (devices, tiles, rows in use, columns in use).

    Args:
        layout: where the weights lie.
        cells: shape (devices, *weights); every device of a weight is on another tile.
    """
    groups, height, width = layout.product.matrix(layout.shape)
    matrix = torch.stack([per_channel(layout.product, each) for each in cells])
    matrix = matrix.view(-1, groups, width, height).mT
    together = blocks_a_tile(layout.product, layout.shape, layout.rows, layout.cols)
    if together > 1:
        missing = ceil(groups / together) * together - groups
        filled = F.pad(matrix, (0, 0, 0, 0, 0, missing))
        blocks = filled.view(len(matrix), -1, together, height, width)
        eye = torch.eye(together, dtype=cells.dtype, device=cells.device)
        diagonal = torch.einsum("dtbrc,bk->dtbrkc", blocks, eye)
        return diagonal.reshape(*blocks.shape[:2], together * height, together * width)
    rows, cols, down, across = _cut(layout, height, width)
    whole = F.pad(matrix, (0, across * cols - width, 0, down * rows - height))
    tiles = whole.view(-1, groups, down, rows, across, cols).transpose(3, 4)
    return tiles.reshape(len(matrix), -1, rows, cols)


def from_tiles(layout: Layout, tiles: Tensor) -> Tensor:
    """Inverse of ``on_tiles``: shape (devices, *weights); what lies at no cell is dropped."""
    groups, height, width = layout.product.matrix(layout.shape)
    together = blocks_a_tile(layout.product, layout.shape, layout.rows, layout.cols)
    if together > 1:
        blocks = tiles.reshape(*tiles.shape[:2], together, height, together, width)
        matrix = blocks.diagonal(dim1=2, dim2=4).movedim(-1, 2).flatten(1, 2)[:, :groups]
    else:
        rows, cols, down, across = _cut(layout, height, width)
        whole = tiles.view(-1, groups, down, across, rows, cols).transpose(3, 4)
        whole = whole.reshape(-1, groups, down * rows, across * cols)
        matrix = whole[:, :, :height, :width]
    channels = matrix.mT.flatten(1, 2)
    return torch.stack([from_channels(layout.product, each, layout.shape) for each in channels])


def one_a_row(layout: Layout, cells: Tensor) -> Tensor:
    """``cells`` with G- of a tile's first column in place of that of all its columns.

    Args:
        layout: where the weights lie.
        cells: shape (2, pairs, *weights).
    """
    groups, height, width = layout.product.matrix(layout.shape)
    first = torch.arange(width, device=cells.device) // layout.cols * layout.cols
    shared = []
    for each in cells[1]:
        columns = per_channel(layout.product, each).view(groups, width, height)[:, first]
        shared.append(from_channels(layout.product, columns.flatten(0, 1), layout.shape))
    return torch.stack([cells[0], torch.stack(shared)])


def _cut(layout: Layout, height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns in use of a tile, and how many tiles there are down and across."""
    rows, cols = min(layout.rows, height), min(layout.cols, width)
    return rows, cols, ceil(height / rows), ceil(width / cols)
