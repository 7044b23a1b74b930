"""How much noise a model withstands: the largest eta at which its accuracy stays above a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def tolerance(
    rows: Sequence[dict[str, Any]], limit: float, resamples: int = 2000
) -> dict[str, float | bool]:
    """The eta at which the mean accuracy first falls below ``limit``, linear between levels.

    Args:
        rows: ``eta`` and the chips' ``values`` of levels in rising order, the same chips at each.
        limit: the accuracy to keep, as a share.
        resamples: bootstrap resamples of the chips, for the interval.

    Returns:
        ``eta``, a 95 % interval ``low`` to ``high`` over chips (percentile bootstrap), and whether
        the largest level measured is still above the limit, so that ``eta`` is only a lower bound.
    """
    etas = np.array([row["eta"] for row in rows], dtype=float)
    chips = max(len(row["values"]) for row in rows)
    # A level that draws nothing has one value, which every chip shares.
    values = np.array([np.resize(row["values"], chips) for row in rows])
    drawn = np.random.default_rng(0).integers(0, chips, (resamples, chips))
    spread = [_crossing(etas, values[:, of].mean(1), limit) for of in drawn]
    low, high = np.percentile(spread, [2.5, 97.5])
    means = values.mean(1)
    return {
        "eta": _crossing(etas, means, limit),
        "low": float(low),
        "high": float(high),
        "is_lower_bound": bool((means >= limit).all()),
    }


def _crossing(etas: np.ndarray, means: np.ndarray, limit: float) -> float:
    below = np.flatnonzero(means < limit)
    if len(below) == 0:
        return float(etas[-1])
    first = int(below[0])
    if first == 0:
        return 0.0
    share = (means[first - 1] - limit) / (means[first - 1] - means[first])
    return float(etas[first - 1] + share * (etas[first] - etas[first - 1]))
