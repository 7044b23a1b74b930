"""Choose what stays digital: the least work such that accuracy stays within a budget.

A candidate is accepted only on chips that no earlier step has seen. The k-th candidate (k = 1, 2,
...) is tested at level (1 - confidence) / 2^k, which add up to 1 - confidence: however many
candidates fail, the chance to accept one that misses the budget stays below it (Student's t, so
exact for normally distributed values).
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import combinations
from typing import Any

import yaml
from scipy import stats
from torch import Tensor, nn

from analogize.api import analogize
from analogize.errors import EvaluationError
from analogize.estimate import Result
from analogize.fingerprint import chip_seed
from analogize.inference import unpack
from analogize.montecarlo import evaluate
from analogize.ops import AnalogOp, operators
from analogize.ranking import curvature_costs
from analogize.targets import load_target
from analogize.targets.spec import Target

# With so few regions every subset is tried, and the assignment found is the cheapest of all.
_EXHAUSTIVE = 6


class Assignment(Result):
    """What to keep digital; ``assign`` makes it.

    Attributes:
        digital: Regions to keep digital, besides the target's own choices.
        digital_macs: Their multiply-accumulates for one sample.
        total_macs: Those of all regions of the analog model.
        baseline: Accuracy of the digital model.
        drop: Mean drop on the chips of the final test.
        bound: Upper confidence bound of the mean drop, at most ``max_drop``.
        max_drop: The budget.
        confidence: Stated for ``bound``, all candidates tested taken into account.
        chips: Chips of the final test.
        tested: Candidates tested on fresh chips, the accepted one included.
        optimal: Whether every cheaper subset was measured and failed; else the search was greedy.
        fragment: A target file that extends the target by this assignment.
    """

    digital: tuple[str, ...]
    digital_macs: int
    total_macs: int
    baseline: float
    drop: float
    bound: float
    max_drop: float
    confidence: float
    chips: int
    tested: int
    optimal: bool
    fragment: str


def assign(
    model: nn.Module,
    data: Iterable[Any],
    target: str | os.PathLike[str] | Target = "pcm_4bit",
    max_drop: float = 0.01,
    *,
    calibration: Iterable[Any] | None = None,
    confidence: float = 0.95,
    instances: int = 30,
    screening: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Assignment:
    """Find the fewest multiply-accumulates to keep digital within an accuracy budget.

    Up to six regions every subset is tried in the order of its work. Beyond, regions are ordered by
    the loss that their noise and rounding is expected to cost for their work (one backward pass),
    the shortest sufficient start of that order is found by bisection, and regions that turn out
    unnecessary are taken out again.

    Args:
        model: The digital classifier.
        data: Batches of (inputs, class indices), the same every time round.
        target: What it is to run on.
        max_drop: Largest mean drop of accuracy against the digital model, 0.01 for one point.
        calibration: Batches that fix the ranges of converters, where the target has some.
        confidence: How sure the budget must be met by the mean over all chips.
        instances: Chips of each test.
        screening: Chips that a candidate is tried on before it is worth a test.
        seed: What the chips' seeds derive from.
        progress: Whether to show progress bars.

    Raises:
        EvaluationError: Arguments or data do not fit.
        AnalogizeError: The model cannot be rewritten for the target.
    """
    if not 0 < max_drop < 1 or not 0.5 <= confidence < 1 or min(instances, screening) < 2:
        raise EvaluationError(
            f"max_drop ({max_drop}) must lie between 0 and 1, confidence ({confidence}) between "
            f"0.5 and 1, and instances ({instances}) and screening ({screening}) be at least 2"
        )
    loaded = load_target(target)
    example, _, samples = unpack(next(iter(data)), 0, next(model.parameters()).device)
    analog = analogize(
        model.eval(), loaded, calibration, example_inputs=dict(example.kwargs) or example.args
    )
    macs = {op.region.name: (op.region.macs or 0) // samples for op in operators(analog)}

    def drops(names: Sequence[str], run: int, chips: int) -> list[float]:
        with digital_regions(analog, names):
            level = evaluate(
                analog, data, "accuracy", None, chips, chip_seed(seed, run), progress=progress
            ).levels[0]
        values = level.values * chips if len(level.values) == 1 else level.values
        return [baseline - value for value in values]

    baseline = 0.0
    baseline = -drops(tuple(macs), 0, 1)[0]

    def screened(names: Sequence[str]) -> list[float]:
        return drops(names, 0, screening)

    def promises(names: Sequence[str]) -> bool:
        found = screened(names)
        error = statistics.stdev(found) / math.sqrt(len(found))
        return statistics.fmean(found) + error <= max_drop

    exhaustive = len(macs) <= _EXHAUSTIVE
    candidates: Iterable[tuple[str, ...]]
    if exhaustive:
        candidates = (c for c in _subsets(macs) if statistics.fmean(screened(c)) <= max_drop)
    else:
        candidates = _greedy(macs, _worth(analog, data, macs, seed), promises)
    tested = 0
    for names in candidates:
        tested += 1
        found = drops(names, tested, instances)
        bound = _upper_bound(found, (1 - confidence) / 2**tested)
        if bound <= max_drop:
            break
    return Assignment(
        digital=tuple(names),
        digital_macs=sum(macs[name] for name in names),
        total_macs=sum(macs.values()),
        baseline=baseline,
        drop=statistics.fmean(found),
        bound=bound,
        max_drop=max_drop,
        confidence=confidence,
        chips=len(found),
        tested=tested,
        optimal=exhaustive,
        fragment=_fragment(target, loaded, names),
    )


@contextmanager
def digital_regions(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within the block the regions ``names`` compute their digital product."""

    def ignore(x: Tensor, y: Tensor) -> None:
        """The observer of a calibration makes an operator digital, and needs to see nothing."""

    chosen: list[AnalogOp] = [op for op in operators(model) if op.region.name in names]
    try:
        for op in chosen:
            op.observer = ignore
        yield
    finally:
        for op in chosen:
            op.observer = None


def _subsets(macs: dict[str, int]) -> list[tuple[str, ...]]:
    """Every subset, the least work first; the whole, which drops nothing, comes last."""
    every = [c for size in range(len(macs) + 1) for c in combinations(macs, size)]
    return sorted(every, key=lambda names: (sum(macs[n] for n in names), len(names)))


def _worth(model: nn.Module, data: Iterable[Any], macs: dict[str, int], seed: int) -> list[str]:
    """Regions by the expected loss that keeping each digital saves for its work, best first."""
    costs = curvature_costs(model, data, seed, rounding=True)
    saved = {op.region.name: costs.get(op.array.name, 0.0) for op in operators(model)}
    return sorted(macs, key=lambda name: -saved[name] / max(macs[name], 1))


def _greedy(
    macs: dict[str, int], order: Sequence[str], promises: Callable[[Sequence[str]], bool]
) -> Iterator[tuple[str, ...]]:
    """A small set that promises to suffice, then ever larger ones, to the whole."""
    low, high = 0, len(order)  # the whole drops nothing
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if promises(order[:middle]) else (middle + 1, high)
    chosen = list(order[:high])
    for name in sorted(chosen, key=lambda name: -macs[name]):
        fewer = [n for n in chosen if n != name]
        if promises(fewer):
            chosen = fewer
    yield tuple(name for name in macs if name in chosen)
    for name in order:
        if name not in chosen:
            chosen.append(name)
            yield tuple(n for n in macs if n in chosen)


def _upper_bound(values: Sequence[float], level: float) -> float:
    """One-sided upper confidence bound of the mean, wrong with probability ``level``."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    quantile = float(stats.t.ppf(1 - level, len(values) - 1))
    return mean + quantile * deviation / math.sqrt(len(values))


def _fragment(
    target: str | os.PathLike[str] | Target, loaded: Target, digital: Sequence[str]
) -> str:
    names = [*loaded.digital.names, *map(escape, digital)]
    if isinstance(target, Target):
        kept = loaded.digital.model_copy(update={"names": tuple(names)})
        return loaded.model_copy(update={"digital": kept}).to_yaml()
    parts = {"schema": 1, "extends": os.fspath(target), "digital": {"names": names}}
    text: str = yaml.safe_dump(parts, sort_keys=False)
    return text
