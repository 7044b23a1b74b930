"""Monte Carlo over chip instances: the same metric on so many programmed chips."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from typing import Any

import torch
from rich.progress import Progress
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from analogize.crossbar.chip import noise_level, noise_mode, require_conditions, require_times
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.on_disk import weights_on_disk as weights_in_files
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import chip_seed, integer
from analogize.display.progress import progress_bar
from analogize.errors import EvaluationError
from analogize.evaluation.data_digest import data_digest
from analogize.evaluation.deployment import Deployment, Remedy, drift_times
from analogize.evaluation.evaluation import Evaluation, Level
from analogize.evaluation.fingerprint import Fingerprint, fingerprint
from analogize.evaluation.inference import undisturbed
from analogize.evaluation.measuring import Bench, make_scores, measure, measure_given
from analogize.evaluation.metrics import MetricLike, Score
from analogize.evaluation.ranks import Ranks
from analogize.evaluation.resuming import resumed
from analogize.model.parts import report_of
from analogize.model.sharding import has_shards
from analogize.targets.spec import Compensation


def evaluate(
    model: nn.Module,
    data: Iterable[Any],
    metric: MetricLike = "accuracy",
    eta: float | Sequence[float | None] | None = None,
    instances: int = 50,
    seed: int = 0,
    *,
    precision: float | None = None,
    max_instances: int = 10_000,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    drift_time: float | str | Sequence[float | str] | None = None,
    compensation: Compensation | None = None,
    recalibration: Iterable[Any] | Remedy | None = None,
    at_once: int = 1,
    distributed: bool = True,
    chips: Sequence[Chip] = (),
    conditions: Mapping[str, float] | None = None,
    weights_on_disk: bool | str | os.PathLike[str] = False,
) -> Evaluation:
    """Measure a metric on ``instances`` programmed chips at every noise level.

    Each chip sees the whole data, in eval mode and without gradients. Chip k has the same seed at
    every level (common random numbers), so that the levels of a curve, or two models measured with
    the same ``seed``, compare more sharply than independent chips would. The paper shows mean and
    standard deviation of 50 such inferences (section 6.1).

    Whatever else the model draws at random in eval mode starts from the chip's seed too. Training
    flags, noise modes, the programmed chip and torch's random state are put back afterwards. Where
    nothing at all is drawn, one pass stands for every chip, and ``Level.deterministic`` says so.

    Args:
        model: A model that ``analogize`` rewrote.
        data: A ``DataLoader`` or another iterable of batches (inputs, targets) that gives the same
            samples every time round. Inputs are a tensor, a tuple of positional or a mapping of
            named arguments.
        metric: ``"accuracy"`` (top-1), a torchmetrics metric, which is cloned, or a function of
            (outputs, targets) that returns the batch's mean, which is averaged over samples.
        eta: A noise level, or several; None is the target's own noise. The level is ``eta`` of the
            Gaussian noise model and the ratio of the fixed-SNR one; on targets that describe
            devices it is a factor on their noise, 1 for the target's own (``noise_level``).
        instances: Number of chips a level, at least 1.
        seed: What the chips' seeds derive from.
        precision: Go on until each level's 95 % interval is at most so far from its mean, in units
            of the metric. ``instances`` chips are a pilot, whose spread decides how many more are
            drawn (Stein's two-stage rule, intervals.py): 20 or more keep that number steady.
        max_instances: Chips a level that ``precision`` may ask for; it is refused beyond.
        resume: A JSON file that is written after every chip and, where it exists, continued, also
            with another number of instances. The data must be the same: their number and some of
            their samples are compared, where they can be had by index. Every value is kept with
            its chip's seed, so that one removed or added by hand is noticed.
        progress: Whether to show a progress bar, on standard error.
        device: Where to run, on a copy of the model; by default where the model is.
        drift_time: When every chip is read after programming, one time or several, in seconds or
            as text such as ``"1 day"``; every noise level is measured at every time.
        compensation: How drift is corrected digitally, as in ``program``; None for the target's
            own way.
        recalibration: Batches, labels unused, to ``recalibrate`` every chip on before it is
            measured. Or what is to be done instead: ``Recalibration`` (with a teacher),
            ``Adaptation``, or a function that changes the model's digital part on a programmed
            chip. Every chip starts from the model's own state, which is put back afterwards.
        at_once: Chips that one batched pass evaluates (many_chips.py). It pays where a
            forward pass leaves the processor idle: small models on a few samples a batch
            (benchmarks/README.md). Outputs then equal those of one by one up to the rounding of
            sums, and with an ADC up to one of its steps where such a sum falls on an edge.
        distributed: Spread the chips over the ranks where torch.distributed has a process group:
            every rank must then make the same call, with the whole data, and gets the whole
            result, which is the one of a single process. Rank 0 reads and writes ``resume``. False
            measures every chip on the calling rank. With fully sharded parameters every rank takes
            part in every chip.
        chips: Chips given as data, measured beside the drawn ones: ``Evaluation.given``.
        conditions: Under which every chip is read, as in ``program``, for example
            ``{"temperature": 330.0}``.
        weights_on_disk: Whether the weights lie in files while chips of them are in memory, or in
            which folder: for models of which memory does not hold two (``weights_on_disk``).

    Returns:
        Values per chip with mean, standard deviation and 95 % confidence interval.

    Raises:
        EvaluationError: Arguments, data, metric or the file of ``resume`` do not fit.
        ChipError: The model has no analog operator, no noise whose level could be set, or a time
            that lies outside the range of a noise model.
        CalibrationError: A converter was never calibrated.
    """
    seed = check_arguments(data, instances, seed)
    _check_precision(precision, instances, max_instances)
    etas, times = noise_levels(eta), drift_times(drift_time)
    scores = make_scores(metric, at_once)
    if recalibration is not None and at_once > 1:
        raise EvaluationError(
            f"at_once is {at_once}, and with recalibration every chip has digital statistics of "
            "its own, which one batched pass cannot have: use at_once=1"
        )
    deployment = Deployment(compensation, recalibration, conditions)
    ranks = Ranks(distributed, together=has_shards(model))
    if device is not None:
        model = copy.deepcopy(model).to(device)
    with (
        _on_disk(model, weights_on_disk),
        noise_mode(model, "programmed"),
        undisturbed(model),
        deployment.keeping(model),
    ):
        settings = scores[0].settings, times, deployment.settings
        run = fingerprint(model, seed, etas, *settings, data_digest(data))
        empty = _empty(model, run, scores[0], instances, precision)
        begun = ranks.from_first(lambda: resumed(empty, resume))
        _check_levels(model, etas)
        require_times(model, run.drift_times)
        require_conditions(model, conditions)
        bench = Bench(model, data, scores, deployment, ranks, max_instances)
        with progress_bar(progress and ranks.is_first) as bar:

            def keep(result: Evaluation, index: int) -> None:
                _show(bar, result, index)
                if resume is not None and ranks.is_first:
                    result.save(resume)

            result = measure(bench, begun, keep)
        return measure_given(bench, result, chips) if chips else result


def _on_disk(
    model: nn.Module, asked: bool | str | os.PathLike[str]
) -> AbstractContextManager[None]:
    if asked is False:
        return nullcontext()
    return weights_in_files(model, None if asked is True else asked)


def noise_levels(eta: Any) -> tuple[float | None, ...]:
    """The noise levels asked for as ``eta``, one or several.

    Raises:
        EvaluationError: none, one twice, or one that is no finite number of at least 0.
    """
    # Arrays and tensors of no dimension have an __iter__ that only raises.
    several = isinstance(eta, Iterable) and not isinstance(eta, str) and getattr(eta, "ndim", 1) > 0
    levels = tuple(_level(one) for one in (eta if several else [eta]))
    if not levels:
        raise EvaluationError("eta is empty; give at least one noise level, or None")
    twice = [x for k, x in enumerate(levels) if x in levels[:k]]
    if twice:
        raise EvaluationError(f"eta holds {twice[0]} twice; give every noise level once")
    return levels


def _level(eta: Any) -> float | None:
    if eta is None:
        return None
    try:
        level = float(eta)
    except (TypeError, ValueError) as cause:
        raise EvaluationError(f"eta {eta!r} is no number; give numbers from 0, or None") from cause
    if not 0 <= level < math.inf:
        raise EvaluationError(f"eta {level} must be a finite number of at least 0")
    return level


def check_arguments(data: Any, instances: int, seed: int) -> int:
    """Refuse arguments that no Monte Carlo run can start with; the seed as a plain integer.

    Raises:
        EvaluationError: data that cannot be gone through more than once, or a wrong number.
    """
    seed = integer(seed, EvaluationError)
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 1:
        raise EvaluationError(f"instances is {instances!r}; it must be an integer of at least 1")
    if isinstance(data, Iterator):
        raise EvaluationError(
            f"the data are a {type(data).__name__}, which is used up after one chip; pass a "
            "DataLoader or a list of batches"
        )
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise EvaluationError(
            f"the data are the data set {type(data).__name__}, which holds single samples; wrap it "
            "in a torch.utils.data.DataLoader"
        )
    if not isinstance(data, Iterable):
        raise EvaluationError(
            f"the data are of type {type(data).__name__}; pass a DataLoader or a list of batches"
        )
    return seed


def _check_precision(precision: float | None, instances: int, most: int) -> None:
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise EvaluationError(f"max_instances is {most!r}; it must be an integer of at least 1")
    if precision is None:
        return
    if not 0 < precision < math.inf:
        raise EvaluationError(f"precision is {precision}; it must be a finite number above 0")
    if instances < 2:
        raise EvaluationError(
            f"instances is {instances}; with precision they are the pilot, which needs at least 2 "
            "chips (20 or more keep the number of further ones steady)"
        )


def _check_levels(model: nn.Module, etas: Iterable[float | None]) -> None:
    """Raise now what would otherwise end the run at its last level."""
    for eta in etas:
        with noise_level(model, eta):
            pass


def _empty(
    model: nn.Module,
    run: Fingerprint,
    score: Score,
    instances: int,
    precision: float | None,
) -> Evaluation:
    """The result before the first chip."""
    report = report_of(model)
    kinds = {noise.model for op in operators(model) for noise in op.array.noise}
    return Evaluation(
        metric=score.name,
        target="unknown" if report is None else report.target,
        noise=tuple(sorted(kinds)),
        instances=instances,
        precision=precision,
        seeds=tuple(chip_seed(run.seed, k) for k in range(instances)),
        levels=tuple(
            Level(eta=eta, drift_time=time, pilot=None if precision is None else instances)
            for eta in run.etas
            for time in run.drift_times or (None,)
        ),
        fingerprint=run,
        versions={"analogize": metadata.version("analogize"), "torch": str(torch.__version__)},
    )


def _show(bar: Progress, result: Evaluation, index: int) -> None:
    """Set the bar: a level without noise counts as all of its chips."""
    eta = result.levels[index].eta
    text = "Evaluating chips" if eta is None else f"Evaluating chips, eta {eta:g}"
    chips = [result.needed(k) for k in range(len(result.levels))]
    done = sum(
        n if x.deterministic else len(x.values) for n, x in zip(chips, result.levels, strict=True)
    )
    task = bar.task_ids[0] if bar.task_ids else bar.add_task(text, total=None)
    bar.update(task, description=text, completed=done, total=sum(chips))
