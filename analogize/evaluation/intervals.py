"""Confidence intervals for a mean over chips, and how many chips an interval needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

_UNCOUNTABLE = 2.0**62
_SIMPLEX_DRAWS, _AT_A_TIME = 20_000, 1000


def t_interval(
    values: Sequence[float], confidence: float = 0.95, floor: float = 0.0
) -> tuple[float, float] | None:
    """Student's confidence interval for the mean that ``values`` are a sample of.

    It is mean -+ t(n - 1) s / sqrt(n), with s the sample's standard deviation (ddof = 1), and is
    not cut off at a metric's limits.

    Args:
        values: Independent draws, one a chip.
        confidence: How often such an interval covers the true mean, between 0 and 1.
        floor: What the deviation is taken for where it is smaller; see ``spread_floor``.

    Returns:
        Both ends; None below two values, which tell nothing about their spread.
    """
    count = len(values)
    if count < 2:
        return None
    # Exact rational arithmetic: equal values have no spread, and their mean is the value.
    mean, deviation = statistics.mean(values), max(statistics.stdev(values), floor)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return mean - half, mean + half


def stein_interval(
    values: Sequence[float], pilot: int, confidence: float = 0.95, floor: float = 0.0
) -> tuple[float, float]:
    """Stein's interval: the mean of all values, the standard deviation of the first ``pilot``.

    Source: C. Stein, "A two-sample test for a linear hypothesis whose power is independent of the
    variance", Annals of Mathematical Statistics 16, 1945. Because the number of values depends on
    the pilot's deviation alone, which is independent of every mean, the coverage is exact for
    normally distributed values; a t-interval looked at after every chip would cover less.

    Args:
        values: Independent draws; the first ``pilot`` of them decided how many there are.
        pilot: At least 2.
        confidence: How often such an interval covers the true mean.
        floor: What the pilot's deviation is taken for where it is smaller; see ``spread_floor``.
    """
    mean = statistics.fmean(values)
    half = _half_width(values[:pilot], confidence, floor) / math.sqrt(len(values))
    return mean - half, mean + half


def stein_count(
    pilot: Sequence[float], precision: float, confidence: float = 0.95, floor: float = 0.0
) -> int:
    """How many draws, the pilot included, make ``stein_interval`` at most +-``precision`` wide.

    Args:
        pilot: The first draws, at least 2.
        precision: Half-width of the interval, above 0.
        confidence: The interval's.
        floor: As in ``stein_interval``.

    Returns:
        At most 2^62, for precisions that no number of draws reaches.
    """
    ratio = _half_width(pilot, confidence, floor) / precision
    return max(len(pilot), math.ceil(min(ratio * ratio, _UNCOUNTABLE)))


def _half_width(pilot: Sequence[float], confidence: float, floor: float) -> float:
    """Half the width of an interval from a single value."""
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(pilot) - 1))
    return quantile * max(statistics.stdev(pilot), floor)


def spread_floor(chips: int, resolution: float | None, confidence: float = 0.95) -> float:
    """The deviation that chips may have although the first ones agree.

    Where ``chips`` of them agree, up to p = 1 - (1 - confidence)^(1 / chips) of all chips may
    differ (Clopper and Pearson's bound with none seen; about 3 / chips), and differ by one step of
    the metric at least: a deviation of resolution sqrt(p (1 - p)).

    Args:
        chips: How many were seen.
        resolution: The metric's step (of an accuracy, one sample); None for no floor.
        confidence: Of the bound on p.
    """
    if resolution is None or chips < 1:
        return 0.0
    share = min(0.5, 1 - (1 - confidence) ** (1 / chips))
    return resolution * math.sqrt(share * (1 - share))


def binomial_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval for a probability (Biometrika 26, 1934).

    It covers at least as often as ``confidence`` says, for any probability and number of draws.

    Args:
        hits: How often it happened, from 0 to ``count``.
        count: Of how many independent draws, at least 1.
        confidence: How often such an interval covers the probability.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits == count else float(stats.beta.ppf(1 - tail, hits + 1, count - hits))
    return low, high


def bounded_interval(
    values: Sequence[float], least: float, largest: float, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the mean of any distribution between two bounds, for any number of draws.

    Gaffke's: with D uniform on the simplex of n + 1 shares, the lower end is the quantile of
    D_0 least + sum_i D_i x_i, and the upper end that of D_0 largest + sum_i D_i x_i. Of values at
    the bounds alone it is Clopper and Pearson's exact interval; that it covers for every
    distribution is a conjecture that has stood every search for a counterexample (Learned-Miller
    and Thomas, "A new confidence interval for the mean of a bounded random variable",
    arXiv:1905.06208, 2019). It is wide for few chips, as it must be: five that agree say little of
    one in ten that fails.

    Args:
        values: Independent draws, at least one.
        least: The smallest value there can be.
        largest: The largest.
        confidence: How often such an interval covers the mean.
    """
    tail, drawn = (1 - confidence) / 2, np.array(values)
    lower, upper = [], []
    random = np.random.default_rng(0)  # the same values have the same interval
    for _ in range(_SIMPLEX_DRAWS // _AT_A_TIME):
        shares = random.standard_exponential((_AT_A_TIME, len(drawn) + 1))
        shares /= shares.sum(1, keepdims=True)
        inside = shares[:, 1:] @ drawn
        lower.append(inside + shares[:, 0] * least)
        upper.append(inside + shares[:, 0] * largest)
    ends = np.quantile(np.concatenate(lower), tail), np.quantile(np.concatenate(upper), 1 - tail)
    return float(ends[0]), float(ends[1])
