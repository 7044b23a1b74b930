"""Two models on the same chips: is the difference between them more than chance?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats
from torch import nn

from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Result
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.intervals import t_interval
from analogize.evaluation.metrics import MetricLike
from analogize.evaluation.montecarlo import evaluate


class Difference(Result):
    """``b`` minus ``a`` at one noise level, chip by chip.

    Attributes:
        eta: The noise level asked for; None is the target's own.
        values: The difference on each chip; one value where neither model drew anything.
        mean: Mean difference.
        interval: 95 % confidence interval of the mean (Student's t on the differences).
        p_value: Two-sided paired t-test of "no difference"; 1 where every difference is zero, and
            None where a single difference leaves nothing to test with.
    """

    eta: float | None
    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float | None


class Comparison(Result):
    """Two evaluations on the same chips and their differences; ``compare`` makes it.

    Attributes:
        a: The first model's evaluation.
        b: The second model's.
        differences: One entry a level.
    """

    a: Evaluation
    b: Evaluation
    differences: tuple[Difference, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a level: both means, their difference, its interval and test."""
        pairs = zip(self.a.levels, self.b.levels, self.differences, strict=True)
        return [
            {"eta": d.eta, "a": a.mean, "b": b.mean, "difference": d.mean}
            | {"low": d.interval[0], "high": d.interval[1], "p_value": d.p_value}
            for a, b, d in pairs
        ]


def compare(
    a: nn.Module,
    b: nn.Module,
    data: Iterable[Any],
    metric: MetricLike = "accuracy",
    eta: float | Sequence[float | None] | None = None,
    instances: int = 50,
    seed: int = 0,
    *,
    progress: bool = True,
) -> Comparison:
    """Measure two models on the same chips and test their difference.

    Chip k draws the same noise for every region that has the same name and shape in both models,
    so what the chip does to both cancels in the difference. The test assumes that the differences
    are roughly normal, or the chips many.

    Args:
        a: A rewritten model.
        b: Another.
        data: Batches of (inputs, targets), the same every time round.
        metric: As for ``evaluate``.
        eta: Noise levels; None is each target's own.
        instances: Chips a level.
        seed: What the chips' seeds derive from.
        progress: Whether to show progress bars.

    Raises:
        EvaluationError: Arguments, data or metric do not fit.
        ChipError: A model has no analog operator, or no noise whose level could be set.
    """
    if instances < 2:
        raise EvaluationError(f"instances is {instances}; a test of a difference needs at least 2")
    first = evaluate(a, data, metric, eta, instances, seed, progress=progress)
    second = evaluate(b, data, metric, eta, instances, seed, progress=progress)
    found = [_difference(first, second, index) for index in range(len(first.levels))]
    return Comparison(a=first, b=second, differences=tuple(found))


def _difference(a: Evaluation, b: Evaluation, index: int) -> Difference:
    one, two = a.levels[index], b.levels[index]
    count = max(len(one.values), len(two.values))
    left, right = _repeated(one.values, count), _repeated(two.values, count)
    values = tuple(y - x for x, y in zip(left, right, strict=True))
    mean = statistics.fmean(values)
    alike = len(set(values)) == 1
    p_value: float | None
    if alike:
        # Without any spread there is nothing to estimate: all chips say the same.
        p_value = 1.0 if mean == 0 else (None if count == 1 else 0.0)
    else:
        p_value = float(stats.ttest_1samp(values, 0.0).pvalue)
    return Difference(
        eta=one.eta,
        values=values,
        mean=mean,
        interval=t_interval(values) or (mean, mean),
        p_value=p_value,
    )


def _repeated(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values
