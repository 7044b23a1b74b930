"""The chips of one noise level: their values, and what they say of all chips."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, computed_field

from analogize.display.tables import shortened
from analogize.errors import EvaluationError
from analogize.evaluation.hits import matrix, two_way_interval
from analogize.evaluation.intervals import (
    binomial_interval,
    bounded_interval,
    spread_floor,
    stein_interval,
    t_interval,
)

# Below so many chips a failure that one chip in ten has is likely not seen at all (0.9^20 = 12 %).
FEW_CHIPS = 20
# Cochran, Sampling Techniques (1977), section 2.15: n > 25 skewness^2 for a 95 % interval that is
# off by less than 6 %.
_COCHRAN = 25.0


class Yield(BaseModel):
    """The share of chips that pass, with its 95 % interval (Clopper and Pearson's, exact).

    Attributes:
        threshold: What a chip must reach.
        passed: How many of the chips do.
        chips: How many were measured.
    """

    model_config = ConfigDict(frozen=True)

    threshold: float
    passed: int
    chips: int

    @property
    def share(self) -> float:
        """Of the chips measured."""
        return self.passed / self.chips

    @property
    def interval(self) -> tuple[float, float]:
        """Covers the share of all chips at least 95 times in a hundred."""
        return binomial_interval(self.passed, self.chips)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.passed} of {self.chips} chips reach {self.threshold:g}: {self.share:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%}"
        )


class GivenChip(BaseModel):
    """The metric on one chip that was given as data.

    Attributes:
        name: The chip's, or its number.
        value: The metric.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    value: FiniteFloat


class Level(BaseModel):
    """The chips of one noise level.

    Attributes:
        eta: The noise level asked for; None is the target's own noise.
        drift_time: Seconds between programming and measuring; None where no time was asked for.
        values: The metric on each chip, in the order of ``Evaluation.seeds``.
        seeds: The seed of each value's chip; empty in results of before it was kept.
        deterministic: Whether nothing was drawn at this level, neither a chip nor anything else:
            then one pass says it all, and ``values`` holds one value for any number of chips.
        pilot: Where chips were drawn to a precision: how many of the first ones decided how many
            were needed, and give the interval its standard deviation.
        bounds: The least and the largest value that the metric can have; None where not known.
        resolution: The step in which it changes: of a share of the samples, one of them.
        hits: Which samples each chip got right, for accuracies of one prediction a sample.
    """

    # Statistics are written to the file for its readers, and computed again when it is read.
    model_config = ConfigDict(frozen=True, extra="ignore")

    eta: FiniteFloat | None
    drift_time: FiniteFloat | None = None
    values: tuple[FiniteFloat, ...] = ()
    seeds: tuple[int, ...] = ()
    deterministic: bool = False
    pilot: int | None = Field(default=None, ge=2)
    bounds: tuple[FiniteFloat, FiniteFloat] | None = None
    resolution: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    hits: tuple[str, ...] = Field(default=(), repr=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Its values by their number, where they are many."""
        return shortened(iter(super().__repr_args__()))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float | None:
        """Mean over chips; None before the first."""
        return statistics.mean(self.values) if self.values else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def std(self) -> float | None:
        """Standard deviation over chips (ddof = 1); None below two chips that differ by noise."""
        if self.deterministic:
            return 0.0
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean over chips (Student's t); None below two chips.

        It is exact for values that are normal; ``doubt`` says where they do not look so, and
        ``bounded_interval`` needs no such thing. Chips that agree to the metric's last step still
        leave it a width: the spread is not taken smaller than ``intervals.spread_floor``.
        """
        if self.deterministic and self.values:
            return self.values[0], self.values[0]
        if self.pilot is not None and len(self.values) > self.pilot:
            floor = spread_floor(self.pilot, self.resolution)
            return stein_interval(self.values, self.pilot, floor=floor)
        return t_interval(self.values, floor=spread_floor(len(self.values), self.resolution))

    @property
    def interval_over_samples(self) -> tuple[float, float] | None:
        """95 % interval of the mean over all chips and all samples like these, by a bootstrap.

        ``interval`` is of these very samples: others, however many chips, may score another mean.
        Chips and samples are drawn again (``hits.two_way_interval``); of one chip, or where nothing
        is drawn, samples alone. None for metrics other than an accuracy of one prediction a sample,
        for results of before hits were kept, and where chips saw the samples in another order.
        """
        if len(self.hits) != len(self.values):
            return None
        found = matrix(self.hits)
        return None if found is None else two_way_interval(found)

    @property
    def bounded_interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean that needs no normality, only the metric's bounds.

        See ``intervals.bounded_interval``; None without chips or bounds.
        """
        if self.deterministic and self.values:
            return self.values[0], self.values[0]
        if self.bounds is None or not self.values:
            return None
        return bounded_interval(self.values, *self.bounds)

    @property
    def lowest(self) -> float | None:
        """The lowest value of a chip: the worst chip where more is better."""
        return min(self.values, default=None)

    @property
    def highest(self) -> float | None:
        """The highest value of a chip: the worst chip where less is better."""
        return max(self.values, default=None)

    def quantile(self, share: float) -> float:
        """The value that ``share`` of the chips measured stay below, between them linearly.

        Args:
            share: From 0 (the lowest chip) to 1 (the highest); 0.05: 5 % of chips are worse.

        Raises:
            EvaluationError: no chip was measured, or ``share`` is none.
        """
        if not 0 <= share <= 1:
            raise EvaluationError(f"share is {share!r}; it must be a number from 0 to 1")
        self._require_chips()
        return float(np.quantile(self.values, share))

    def yield_above(self, threshold: float) -> Yield:
        """How many chips reach ``threshold`` or more; where nothing is drawn, all or none.

        Raises:
            EvaluationError: no chip was measured, or the threshold is no finite number.
        """
        return self._yield(threshold, sum(value >= threshold for value in self.values))

    def yield_below(self, threshold: float) -> Yield:
        """How many chips stay at ``threshold`` or less, for metrics of which less is better.

        Raises:
            EvaluationError: as ``yield_above``.
        """
        return self._yield(threshold, sum(value <= threshold for value in self.values))

    def _yield(self, threshold: float, passed: int) -> Yield:
        if not math.isfinite(threshold):
            raise EvaluationError(f"threshold is {threshold!r}; it must be a finite number")
        self._require_chips()
        return Yield(threshold=threshold, passed=passed, chips=len(self.values))

    def _require_chips(self) -> None:
        if not self.values:
            raise EvaluationError("no chip was measured at this level yet")

    @property
    def skewness(self) -> float:
        """Of the values; 0 below three chips, or where they agree."""
        values = np.array(self.values)
        if len(values) < 3 or len(set(self.values)) == 1:
            return 0.0
        with np.errstate(all="ignore"):  # values near the end of floats have no cube
            found = (((values - values.mean()) / values.std()) ** 3).mean()
        return float(np.nan_to_num(found))

    @property
    def doubt(self) -> str | None:
        """Why ``interval`` may cover the mean less often than it says; None without a reason."""
        count = len(self.values)
        if self.deterministic or count < 2:
            return None
        if count < FEW_CHIPS:
            # Of n chips none shows it in (1 - 1 / n)^n of all runs, a third.
            return f"{count} chips may well miss a failure that one chip in {count} has"
        if count <= _COCHRAN * self.skewness**2:
            needed = math.ceil(_COCHRAN * self.skewness**2)
            return f"values this skewed ({self.skewness:.1f}) take {needed} chips"
        return None
