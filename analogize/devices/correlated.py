"""Random fields over a tile: what neighbouring devices have in common."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def correlated(normal: Tensor, length: float) -> Tensor:
    """Standard normal values that are correlated over the cells of a tile.

    The correlation of two cells of one tile, d_r rows and d_c columns apart, is ::

        exp(-(d_r^2 + d_c^2) / (2 length^2)) = K_r(d_r) K_c(d_c)

    and that of cells of different tiles is 0. With symmetric roots A A = K for rows and columns,
    z = A_r n A_c has it exactly where n are independent. A Gaussian random field; the form of its
    correlation is this project's choice, for which no source is claimed.

    Args:
        normal: independent standard normal values, shape (..., rows, columns).
        length: in cells, above 0.
    """
    rows, cols = (_root(size, length).to(normal) for size in normal.shape[-2:])
    return rows @ normal @ cols


@lru_cache(maxsize=32)
def _root(size: int, length: float) -> Tensor:
    """The symmetric root of the correlation of ``size`` cells in a row, in double precision."""
    at = torch.arange(size, dtype=torch.float64)
    distance = at.unsqueeze(1) - at
    values, vectors = torch.linalg.eigh((-0.5 * (distance / length).square()).exp())
    # Long lengths leave eigenvalues of zero, which rounding makes negative.
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return root
