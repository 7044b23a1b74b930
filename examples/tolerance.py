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


def two_way(
    curve: Sequence[tuple[float, np.ndarray]],
    reference: np.ndarray,
    points: float,
    resamples: int = 1000,
) -> dict[str, float | bool]:
    """The eta at which the mean accuracy first falls ``points`` below that of ``reference``.

    Chips and images are both samples, and another set of images moves every accuracy: each resample
    of the bootstrap draws chips and images anew, the same ones at every level and for the
    reference, which those images move along (Owen, "The pigeonhole bootstrap", 2007).

    Args:
        curve: etas in rising order, and whether each chip was right on each image (chips, images);
            a level without noise may have one chip.
        reference: whether a model without noise was right on each image (images).
        points: percentage points below it.
        resamples: of the bootstrap.

    Returns:
        As ``tolerance``.
    """
    spread, eta, is_lower_bound = _crossings(curve, reference, points, _chips(curve), resamples)
    low, high = np.percentile(spread, [2.5, 97.5])
    return {
        "eta": eta,
        "low": float(low),
        "high": float(high),
        "is_lower_bound": is_lower_bound,
    }


def two_way_ratio(
    first: Sequence[tuple[float, np.ndarray]],
    second: Sequence[tuple[float, np.ndarray]],
    reference: np.ndarray,
    points: float,
    resamples: int = 1000,
) -> tuple[float, float, float]:
    """The tolerance of ``first`` divided by that of ``second``, and its interval.

    Both on the same chips and images, and resampled together; otherwise as for ``two_way``.
    Infinite or not a number where the second has none.
    """
    chips = min(_chips(first), _chips(second))
    above, one, _ = _crossings(first, reference, points, chips, resamples)
    below, other, _ = _crossings(second, reference, points, chips, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(above / below, [2.5, 97.5])
        ratio = np.float64(one) / other
    return float(ratio), float(low), float(high)


def _chips(curve: Sequence[tuple[float, np.ndarray]]) -> int:
    """How many every level has: the first ones. A level without noise has one for all."""
    return min((len(bits) for _, bits in curve if len(bits) > 1), default=1)


def _crossings(
    curve: Sequence[tuple[float, np.ndarray]],
    reference: np.ndarray,
    points: float,
    count: int,
    resamples: int,
) -> tuple[np.ndarray, float, bool]:
    """Where every resample crosses the limit, where the whole does, and whether it never does."""
    etas = np.array([eta for eta, _ in curve], dtype=float)
    curve = [(eta, bits[:count]) for eta, bits in curve]
    images = len(reference)
    random = np.random.default_rng(0)
    chips = random.multinomial(count, np.full(count, 1 / count), resamples) / count
    seen = random.multinomial(images, np.full(images, 1 / images), resamples) / images
    means = np.stack([_resampled(bits, chips, seen) for _, bits in curve])
    limits = seen @ reference - points / 100
    spread = np.array([_crossing(etas, *pair) for pair in zip(means.T, limits, strict=True)])
    plain, limit = np.array([bits.mean() for _, bits in curve]), reference.mean() - points / 100
    return spread, _crossing(etas, plain, float(limit)), bool((plain >= limit).all())


def two_way_difference(
    first: np.ndarray, second: np.ndarray, resamples: int = 1000
) -> tuple[float, float, float]:
    """Mean of ``first`` minus mean of ``second`` on the same chips and images, and its interval."""
    chips, images = first.shape
    random = np.random.default_rng(0)
    drawn = random.multinomial(chips, np.full(chips, 1 / chips), resamples) / chips
    seen = random.multinomial(images, np.full(images, 1 / images), resamples) / images
    difference = first.astype(np.float32) - second.astype(np.float32)
    low, high = np.percentile(_resampled(difference, drawn, seen), [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def _resampled(values: np.ndarray, chips: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The mean of ``values`` (chips, images) in every resample, from its weights."""
    if len(values) == 1:
        return np.asarray(images @ values[0])
    rows = chips.astype(np.float32) @ values.astype(np.float32)
    return np.asarray((rows * images).sum(1))


def _crossing(etas: np.ndarray, means: np.ndarray, limit: float) -> float:
    below = np.flatnonzero(means < limit)
    if len(below) == 0:
        return float(etas[-1])
    first = int(below[0])
    if first == 0:
        return 0.0
    share = (means[first - 1] - limit) / (means[first - 1] - means[first])
    return float(etas[first - 1] + share * (etas[first] - etas[first - 1]))
