"""Confidence intervals for a mean over chips, and how many chips an interval needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

_UNCOUNTABLE = 2.0**62


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's confidence interval for the mean that ``values`` are a sample of.

    It is mean -+ t(n - 1) s / sqrt(n), with s the sample's standard deviation (ddof = 1), and is
    not cut off at a metric's limits.

    Args:
        values: Independent draws, one a chip.
        confidence: How often such an interval covers the true mean, between 0 and 1.

    Returns:
        Both ends; None below two values, which tell nothing about their spread.
    """
    count = len(values)
    if count < 2:
        return None
    # Exact rational arithmetic: equal values have no spread, and their mean is the value.
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return mean - half, mean + half


def stein_interval(
    values: Sequence[float], pilot: int, confidence: float = 0.95
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
    """
    mean = statistics.fmean(values)
    half = _half_width(values[:pilot], confidence) / math.sqrt(len(values))
    return mean - half, mean + half


def stein_count(pilot: Sequence[float], precision: float, confidence: float = 0.95) -> int:
    """How many draws, the pilot included, make ``stein_interval`` at most +-``precision`` wide.

    Args:
        pilot: The first draws, at least 2.
        precision: Half-width of the interval, above 0.
        confidence: The interval's.

    Returns:
        At most 2^62, for precisions that no number of draws reaches.
    """
    ratio = _half_width(pilot, confidence) / precision
    return max(len(pilot), math.ceil(min(ratio * ratio, _UNCOUNTABLE)))


def _half_width(pilot: Sequence[float], confidence: float) -> float:
    """Half the width of an interval from a single value."""
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(pilot) - 1))
    return quantile * statistics.stdev(pilot)
