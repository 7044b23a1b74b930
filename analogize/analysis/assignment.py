"""Choose what stays digital: the least work such that accuracy stays within a budget.

``analogize.analysis.assignment_search`` says how candidates are found and tested.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from glob import escape
from typing import Any

import yaml
from torch import nn

from analogize.analysis.assignment_search import Search
from analogize.analysis.drops import Drops
from analogize.analysis.ranking import curvature_costs
from analogize.api import analogize
from analogize.crossbar.chip import regions
from analogize.crossbar.located import located
from analogize.display.progress import progress_bar
from analogize.errors import EvaluationError
from analogize.evaluation.deployment import Deployment, Remedy
from analogize.evaluation.estimate import Result
from analogize.evaluation.inference import unpack
from analogize.evaluation.montecarlo import check_arguments
from analogize.model.calls import device_of
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
        baseline: Accuracy of the digital model on the samples of the final test.
        drop: Mean drop in the final test.
        bound: Upper confidence bound of the mean drop, at most ``max_drop``.
        max_drop: The budget.
        confidence: Stated for ``bound``, all candidates tested taken into account.
        chips: Chips of the final test.
        samples: Samples of the final test.
        unseen_samples: Whether these were no samples of the search, and ``bound`` holds for others
            like them too; else it holds for all chips on these samples.
        tested: Candidates tested on fresh chips, the accepted one included.
        passes: Passes of a chip through the data of search or tests that it took.
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
    samples: int
    unseen_samples: bool
    tested: int
    passes: int
    optimal: bool
    fragment: str


def assign(
    model: nn.Module,
    data: Iterable[Any],
    target: str | os.PathLike[str] | Target = "pcm_4bit",
    max_drop: float = 0.01,
    *,
    calibration: Iterable[Any] | None = None,
    test_data: Iterable[Any] | None = None,
    confidence: float = 0.95,
    instances: int = 30,
    screening: int = 10,
    seed: int = 0,
    progress: bool = False,
    recalibration: Iterable[Any] | Remedy | None = None,
) -> Assignment:
    """Find the fewest multiply-accumulates to keep digital within an accuracy budget.

    Up to six regions every subset is tried in the order of its work. Beyond, regions are ordered by
    the loss that their noise and rounding is expected to cost for their work (one backward pass),
    the shortest sufficient start of that order is found by bisection, and regions that turn out
    unnecessary are taken out again. A candidate far from the budget is settled by few chips.

    Args:
        model: The digital classifier.
        data: Batches of (inputs, class indices), the same every time round.
        target: What it is to run on.
        max_drop: Largest mean drop of accuracy against the digital model, 0.01 for one point.
        calibration: Batches that fix the ranges of converters, where the target has some.
        test_data: Other batches to test candidates on. The budget then holds for samples that the
            search has not seen as well; without, for all chips on ``data``.
        confidence: How sure the budget must be met by the mean over all chips.
        instances: Chips of each test.
        screening: Most chips that a candidate is tried on before it is worth a test.
        seed: What the chips' seeds derive from.
        progress: Whether to show a progress bar, on standard error.
        recalibration: What every chip is given before it is judged, as in ``evaluate``: where
            deployed chips are recalibrated, far less has to stay digital. The order in which
            regions are tried does not know of it.

    Raises:
        EvaluationError: Arguments or data do not fit.
        CalibrationError: There is nothing to recalibrate.
        AnalogizeError: The model cannot be rewritten for the target.
    """
    _check(max_drop, confidence, instances, screening)
    for batches in (data, test_data):
        if batches is not None:
            seed = check_arguments(batches, instances, seed)
    loaded = load_target(target)
    analog, macs = _rewritten(model, data, loaded, calibration)
    with progress_bar(progress) as bar:
        task = bar.add_task("", total=None)

        def watch(names: Sequence[str], chip: int) -> None:
            text = f"{len(names)} of {len(macs)} regions digital, chip {chip}"
            bar.update(task, description=text, advance=1)

        # One for both: its batches are read once.
        deployment = Deployment(recalibration=recalibration)
        judged = partial(Drops, analog, seed=seed, watch=watch, deployment=deployment)
        seen, unseen = judged(data), None if test_data is None else judged(test_data)
        search = Search(seen, unseen, max_drop, confidence, instances, screening, len(macs))
        exhaustive = len(macs) <= _EXHAUSTIVE
        order = () if exhaustive else _worth(analog, data, macs, seed)
        tests = search.exhaustively(macs) if exhaustive else search.greedily(macs, order)
        last = search.first_that_holds(tests)
    return Assignment(
        digital=last.names,
        digital_macs=sum(macs[name] for name in last.names),
        total_macs=sum(macs.values()),
        baseline=search.tested_on.baseline,
        drop=float(last.drops.mean()),
        bound=last.bound,
        max_drop=max_drop,
        confidence=confidence,
        chips=last.drops.shape[0],
        samples=last.drops.shape[1],
        unseen_samples=test_data is not None,
        tested=last.number,
        passes=seen.passes + (0 if unseen is None else unseen.passes),
        optimal=exhaustive,
        fragment=_fragment(target, loaded, last.names),
    )


def _check(max_drop: float, confidence: float, instances: int, screening: int) -> None:
    if not 0 < max_drop < 1 or not 0.5 <= confidence < 1 or min(instances, screening) < 2:
        raise EvaluationError(
            f"max_drop ({max_drop}) must lie between 0 and 1, confidence ({confidence}) between "
            f"0.5 and 1, and instances ({instances}) and screening ({screening}) be at least 2"
        )


def _rewritten(
    model: nn.Module, data: Iterable[Any], target: Target, calibration: Iterable[Any] | None
) -> tuple[nn.Module, dict[str, int]]:
    """The analog model, and every region's multiply-accumulates for one sample."""
    first = next(iter(data), None)
    if first is None:
        raise EvaluationError("the data hold no sample; give at least one batch")
    example, _, samples = unpack(first, 0, device_of(model))
    inputs = dict(example.kwargs) or example.args
    analog = analogize(model.eval(), target, calibration, example_inputs=inputs)
    macs = {r.name: (r.macs or 0) // samples for r in regions(analog)}
    return analog, macs


def _worth(model: nn.Module, data: Iterable[Any], macs: dict[str, int], seed: int) -> list[str]:
    """Regions by the expected loss that keeping each digital saves for its work, best first."""
    costs = curvature_costs(model, data, seed, rounding=True)
    saved = {region.name: costs.get(array, 0.0) for _, region, array in located(model)}
    return sorted(macs, key=lambda name: -saved[name] / max(macs[name], 1))


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
