"""Chip after chip, some in one pass and some on other ranks, until an evaluation is complete."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from analogize.crossbar.chip import noise_level
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.deployment import Deployment
from analogize.evaluation.evaluation import Evaluation, GivenChip
from analogize.evaluation.inference import Pass
from analogize.evaluation.many_chips import run_chips
from analogize.evaluation.metrics import MetricLike, Score, make_score
from analogize.evaluation.ranks import Ranks


@dataclass(frozen=True)
class Bench:
    """What chips are measured with.

    Attributes:
        model: A rewritten model, in eval mode and noise mode ``"programmed"``.
        data: Batches of (inputs, targets).
        scores: As many as chips share a batched pass.
        deployment: How every chip is prepared.
        ranks: The processes that share the chips.
        most: Chips of one level that a precision may ask for.
    """

    model: nn.Module
    data: Iterable[Any]
    scores: Sequence[Score]
    deployment: Deployment
    ranks: Ranks
    most: int


def make_scores(metric: MetricLike, at_once: int) -> list[Score]:
    """One score for every chip of a batched pass.

    Raises:
        EvaluationError: ``at_once`` is no integer from 1, or ``metric`` none that can be used.
    """
    if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
        raise EvaluationError(f"at_once is {at_once!r}; it must be an integer of at least 1")
    return [make_score(metric) for _ in range(at_once)]


def measure(
    bench: Bench, result: Evaluation, keep: Callable[[Evaluation, int], None]
) -> Evaluation:
    """Measure every chip that ``result`` lacks; ``keep`` it at each level's start and each step.

    Raises:
        EvaluationError: A chip cannot be measured; the message says which one.
    """
    for index, level in enumerate(result.levels):
        keep(result, index)
        with noise_level(bench.model, level.eta):
            while not result.is_done(index):
                _require_reachable(result, index, bench.most)
                result = _step(bench, result, index)
                keep(result, index)
    return result


def measure_given(bench: Bench, result: Evaluation, chips: Sequence[Chip]) -> Evaluation:
    """``result`` with the metric on chips that are given as data, at the target's own noise.

    Raises:
        ChipError: A chip does not fit the model.
        EvaluationError: A chip cannot be measured.
    """
    measured = []
    for number, chip in enumerate(chips):
        name = chip.name or str(number)
        seed = chip_seed(result.fingerprint.seed, number)
        try:
            prepare = bench.deployment.prepare_given(bench.model, chip)
            done = run_chips(bench.model, bench.data, bench.scores[:1], [seed], prepare)[0]
        except EvaluationError as cause:
            raise EvaluationError(f"{cause} (the given chip {name})") from cause
        measured.append(GivenChip(name=name, value=done.value))
    return result.model_copy(update={"given": tuple(measured)})


def _require_reachable(result: Evaluation, index: int, most: int) -> None:
    """Refuse a precision that would take days, as soon as the pilot shows it."""
    needed, pilot = result.needed(index), result.levels[index].values[: result.instances]
    if result.precision is None or needed <= max(most, result.instances):
        return
    # Half a percent more, for the digits that the message leaves out.
    reachable = 1.005 * result.precision * math.sqrt(needed / most)
    raise EvaluationError(
        f"precision {result.precision:g} takes {needed:.6g} chips by the spread of the first "
        f"{len(pilot)}, more than max_instances = {most}: raise max_instances, or ask for a "
        f"precision of {reachable:.3g}, which so many reach; the chips measured are kept in the "
        "file of resume, if any"
    )


def _step(bench: Bench, result: Evaluation, index: int) -> Evaluation:
    """``result`` with the next chips of level ``index``: one pass on every rank."""
    silent = all(op.array.is_silent for op in operators(bench.model))
    # One chip may stand for all of a silent level, and tells whether the model draws at all.
    width = 1 if silent else len(bench.scores)
    done = len(result.levels[index].values)
    first = done + bench.ranks.rank * width
    last = min(first + width, result.needed(index))
    run = partial(_run, bench, result, index, range(first, last)) if first < last else None
    found = [one for passes in bench.ranks.gather(run) for one in passes]
    alike = silent and done == 0 and not found[0].drew
    return _extended(result, index, found[:1] if alike else found, alike, bench.scores[0].bounds)


def _run(bench: Bench, result: Evaluation, index: int, numbers: range) -> list[Pass]:
    """The chips ``numbers`` of level ``index``; errors say which they were."""
    level = result.levels[index]
    seeds = [chip_seed(result.fingerprint.seed, k) for k in numbers]
    prepare = bench.deployment.prepare(bench.model, level.drift_time)
    try:
        return run_chips(bench.model, bench.data, bench.scores, seeds, prepare)
    except (EvaluationError, MemoryError, RuntimeError) as cause:
        at = "the target's own noise" if level.eta is None else f"eta = {level.eta:g}"
        which = f"chip {numbers[0]}" if len(seeds) == 1 else f"chips {numbers[0]} to {numbers[-1]}"
        reason: BaseException | str = cause
        if _is_out_of_memory(cause):
            reason = (
                f"out of memory: {cause}; take smaller batches, or a smaller at_once. The chips "
                "measured before are kept in the file of resume, if any"
            )
        elif not isinstance(cause, EvaluationError):
            raise
        raise EvaluationError(f"{reason} ({which}, seed {seeds[0]}, at {at})") from cause


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on the CPU too, where torch has no class for it."""
    if error is None:
        return False
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "can't allocate memory" in str(error)
        or _is_out_of_memory(error.__cause__)
    )


def _extended(
    result: Evaluation,
    index: int,
    found: Sequence[Pass],
    alike: bool,
    bounds: tuple[float, float] | None,
) -> Evaluation:
    level = result.levels[index]
    for done in found:
        if result.samples not in (None, done.samples):
            raise EvaluationError(
                f"the data held {result.samples} samples before and {done.samples} now: every "
                "chip must see the same data (to start over on other data, use another file for "
                "resume)"
            )
        result = result.model_copy(update={"samples": done.samples})
    values = (*level.values, *(done.value for done in found))
    # Of accuracy the smallest step is known, one sample.
    step = 1 / result.samples if result.metric == "accuracy" and result.samples else None
    new = [done.hits for done in found]
    hits = (*level.hits, *(line for line in new if line is not None))
    # Of some chips alone they would be in the places of others.
    known = {"bounds": bounds, "resolution": step, "hits": hits if len(hits) == len(values) else ()}
    return result.with_values(index, values, deterministic=alike, **known)
