"""Chips: program one, choose the noise mode, set the noise level, confine the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from analogize.crossbar import noise
from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.fitted import tell_of_another_chip
from analogize.crossbar.given import give, require_fitting
from analogize.crossbar.located import Located, located
from analogize.crossbar.ops import AnalogOp, NoiseMode, operators
from analogize.crossbar.region import Region
from analogize.crossbar.seeds import integer, untied
from analogize.crossbar.stale import tell_of_stale_ranges
from analogize.crossbar.witness import Witness
from analogize.devices.times import require_time, seconds
from analogize.errors import ChipError
from analogize.model.offloading import refuse_offloaded
from analogize.model.parts import report_of
from analogize.model.sharding import drop_copies, is_sharded, own_part, part_beside, whole
from analogize.quantize import Bound, clamp_
from analogize.targets.noise import ReadNoise, depends_on_condition
from analogize.targets.spec import Compensation, NoiseModel


def regions(model: nn.Module) -> tuple[Region, ...]:
    """What every analog operator of ``model`` stands for, part after part.

    Where ``model`` holds analog parts inside, the names begin with the part's path.
    """
    return tuple(found.region for found in located(model))


def program(
    model: nn.Module,
    seed: int | Chip,
    *,
    drift_time: float | str = 0.0,
    compensation: Compensation | None = None,
    cycle: int = 0,
    conditions: Mapping[str, float] | None = None,
) -> None:
    """Program one chip instance: draw every region's weight noise once and keep it.

    Evaluation then uses these weights, at the cost of the digital model, until the next
    ``program`` or ``erase``; training does not, and a warning says so of a model in train mode. A
    chip belongs to the weights it was programmed from: once they have changed, on whatever way,
    using it is an error. Each region draws from its own generator, seeded by ``seed`` and the
    region's name on the CPU, so that a chip depends on neither order, device nor process. The same
    seed at another ``drift_time`` is the same chip, read later. In a bigger module a region's name
    begins with the path of its part (``regions(model)``): programmed there, the part is another
    chip than programmed alone, and two parts are never the same chip. What ``recalibrate`` or
    ``adapt`` fitted on one chip is kept, also in files of ``save``, and a warning says so of a chip
    or time that is another.

    Args:
        model: a rewritten model, or any module with rewritten parts.
        seed: the chip's number, an integer; or a ``Chip``: measured conductances, a defect map, or
            a chip that ``read_chip`` read. What it was measured at is its time and cycle.
        drift_time: when the chip is read, counted from programming (from the first reading, where
            the target's models define one): seconds, or text such as ``"1 day"``. Targets whose
            devices neither drift nor relax know no other time than 0.
        compensation: how drift is corrected digitally: ``"none"``, ``"global"`` (one factor an
            array), ``"tile"`` (one a tile, where tiles convert their own sums) or ``"column"`` (one
            an output channel); None for the target's own. The factors come from one reading of
            every row, with its read noise.
        cycle: which programming of the chip this is: stuck devices, device-to-device variation and
            drift exponents stay; programming noise, cycle-to-cycle variation and the noise of
            targets without devices are drawn anew.
        conditions: under which the chip is read, by name: ``{"temperature": 330.0}`` (kelvin) for
            targets with a model of it, any names for functions of one's own.

    Raises:
        OffloadError: accelerate has offloaded its weights.
        ChipError: the model has no analog operator; an unknown compensation; a seed that is no
            integer; a time that is none, outside the range that a noise model was measured in, or
            after 0 where nothing in the target changes with time; a condition that no model knows;
            or a ``Chip`` that does not fit the model.
    """
    if compensation is not None and compensation not in get_args(Compensation):
        allowed = ", ".join(map(repr, get_args(Compensation)))
        raise ChipError(f"compensation {compensation!r} is unknown; allowed are {allowed}")
    seed, time = seed if isinstance(seed, Chip) else integer(seed), seconds(drift_time)
    drop_copies(model)
    refuse_offloaded(model)
    require_times(model, [time])
    require_conditions(model, conditions)
    ops = located(model)
    if isinstance(seed, Chip):
        every = list(dict.fromkeys(found.array for found in ops))
        require_fitting(seed, every, time, cycle, conditions)
    done: dict[int, Located] = {}
    try:
        tell_of_stale_ranges((found.op, found.op.stored.value()) for found in ops)
        for found in ops:
            op, weight = found.op, weight_of(found.op)
            first = done.setdefault(id(op.array), found)
            if first is found:
                how = time, compensation, cycle, found.array, conditions
                if isinstance(seed, Chip):
                    give(op.array, weight, seed, *how)
                else:
                    op.array.program(weight, seed, *how)
                op.array.witness = Witness(weight, op.stored)
            elif op.array.witness is None or op.array.witness.difference(weight, op.stored, None):
                raise untied(first.region.name, found.region.name)
    except BaseException:
        # Half of this chip and half of the one before are none.
        erase(model)
        raise
    tell_of_another_chip(model, [(found, found.op.array.origin) for found in ops])
    if any(op.training and op.mode is None for op, _, _ in ops):
        warnings.warn(
            f"{type(model).__name__} is in train mode, where it draws fresh noise and does not use "
            "the chip; call model.eval(), or use noise_mode(model, 'programmed')",
            stacklevel=2,
        )


def require_times(model: nn.Module, times: Iterable[float]) -> None:
    """Raise now what ``program`` would raise of times at which nothing has changed.

    Raises:
        ChipError: a time after 0, and no noise model that depends on time.
    """
    noise = [op.array.noise for op in _require_operators(model)]
    report = report_of(model)
    for time in times:
        require_time("unknown" if report is None else report.target, noise, time)


def require_conditions(model: nn.Module, conditions: Mapping[str, float] | None) -> None:
    """Refuse conditions that would change nothing, and values that are no numbers.

    Raises:
        ChipError: one that no noise model depends on, or that is not finite.
    """
    noise = [model for op in _require_operators(model) for model in op.array.noise]
    for name, value in (conditions or {}).items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ChipError(f"the condition '{name}' is {value!r}; it must be a finite number")
        if not any(depends_on_condition(model, name) for model in noise):
            report = report_of(model)
            raise ChipError(
                f"a chip of the target '{'unknown' if report is None else report.target}' is the "
                f"same whatever the condition '{name}' is: none of its noise models depends on it. "
                "Models of the kind 'temperature' depend on 'temperature', and functions of your "
                "own on any condition"
            )


def erase(model: nn.Module) -> None:
    """Forget the programmed chip: evaluation draws fresh noise again."""
    for op in _require_operators(model):
        op.array.erase()


def weight_of(op: AnalogOp) -> Tensor:
    """The weight that ``op`` multiplies by: the parameter itself, or what computes it.

    Of a fully sharded model it is assembled, and every process must ask for it.

    Raises:
        ChipError: the weight is a part of itself, in a form that cannot be assembled from here.
    """
    weight = whole(op.stored.value())
    if weight.shape != op.array.shape:
        raise _in_parts(op, weight)
    return weight


@contextmanager
def noise_mode(model: nn.Module, mode: NoiseMode) -> Iterator[None]:
    """Within the block every region uses ``mode``; afterwards its former one.

    ``"off"`` keeps ranges and converters without noise, ``"fresh"`` draws once in every forward
    pass (``one_pass`` says what that is), ``"programmed"`` uses the chip, in training too.

    Raises:
        ChipError: an unknown mode, or no analog operator.
    """
    if mode not in get_args(NoiseMode):
        allowed = ", ".join(map(repr, get_args(NoiseMode)))
        raise ChipError(f"noise mode {mode!r} is unknown; allowed are {allowed}")
    ops = _require_operators(model)
    before = [op.mode for op in ops]
    try:
        for op in ops:
            op.mode = mode
        yield
    finally:
        for op, former in zip(ops, before, strict=True):
            op.mode = former


@contextmanager
def noise_level(model: nn.Module, eta: float | None) -> Iterator[None]:
    """Within the block every region's weight noise has level ``eta``; None keeps the target's.

    The level is ``eta`` of the Gaussian model and ``ratio`` of the fixed-SNR one. On targets that
    describe devices it is a factor on their noise: the ``scale`` of every model of programming,
    relaxation, drift, variation and reading, so that 1 is the target's own noise and 0 none. Stuck
    devices, wires, output noise and functions of one's own stay as they are. A chip that was
    programmed before keeps the level it was drawn with.

    Raises:
        ChipError: a negative level; or a region without noise model whose level could be set.
    """
    if eta is None:
        yield
        return
    ops = _require_operators(model)
    arrays = _arrays(model)
    before = [array.noise for array in arrays]
    try:
        _set_noise(ops, arrays, [_at_level(array, eta) for array in arrays])
        yield
    finally:
        _set_noise(ops, arrays, before)


def _set_noise(
    ops: Iterable[AnalogOp],
    arrays: Iterable[WeightArray],
    models: Iterable[tuple[NoiseModel, ...]],
) -> None:
    for array, each in zip(arrays, models, strict=True):
        array.noise = each
    for op in ops:  # what products draw is derived from the models once
        if any(isinstance(each, ReadNoise) for each in op.array.noise):
            op.refresh()


def _at_level(array: WeightArray, eta: float) -> tuple[NoiseModel, ...]:
    if not eta >= 0:
        raise ChipError(f"noise level {eta!r} must be a number of at least 0")
    found = noise.all_at_level(array.noise, eta)
    if found is not None:
        return found
    kinds = ", ".join(f"'{model.model}'" for model in array.noise) or "none"
    raise ChipError(
        f"region '{array.name}': a level of {eta:g} would have no meaning for its noise models "
        f"({kinds}): give the target one Gaussian or fixed-SNR model, or device models without "
        "such, or leave eta unset to use the target's own noise"
    )


@torch.no_grad()
def clip_weights(model: nn.Module) -> int:
    """Project every analog weight into its fixed range [W_min, W_max], in place.

    The paper trains with clipped weights, because a network whose range may grow learns to drown
    the noise in larger weights (Noisy Machines, section 5.1). Call it after every optimizer step;
    where a model is sharded, on every process. Learned ranges of converters are confined too.

    Returns:
        How many weights were moved, of those that this process holds. Weights that are computed
        from parameters cannot be moved, and are clipped by the array alone. Weights inside the
        range are untouched.

    Raises:
        ChipError: a weight that FullyShardedDataParallel has flattened.
    """
    ranges: dict[int, tuple[Tensor, Bound, Bound]] = {}
    ops = _require_operators(model)
    drop_copies(model)
    refuse_offloaded(model)
    for op in ops:
        op.follow(wholly=True)
        array, weight = op.array, op.stored.value()
        if not op.is_calibrated and array.is_pending:
            array.settle(whole(weight))
        if array.limits is None or id(array) in ranges or op.stored.is_computed():
            continue
        if weight.shape != array.shape:
            raise _in_parts(op, weight)
        low, high = (_end_beside(end, weight) for end in array.limits)
        ranges[id(array)] = weight, low, high
    if not ranges:
        return 0
    parts = [(own_part(weight), low, high) for weight, low, high in ranges.values()]
    outside = [((w < low) | (w > high)).sum() for w, low, high in parts]
    # One transfer for all layers: an accelerator would wait for each of them.
    counts: list[int] = torch.stack([n.to(outside[0].device) for n in outside]).tolist()
    for count, part, (weight, _, _) in zip(counts, parts, ranges.values(), strict=True):
        if count:
            clamp_(*part)
        if is_sharded(weight):
            # Neither a write to the part nor an optimizer's fused step counts as a new version.
            increment_version(weight)
    return sum(counts)


def _end_beside(end: Bound, weight: Tensor) -> Bound:
    """One end of the range, against this process's part of ``weight``."""
    return part_beside(end, weight) if isinstance(end, Tensor) and end.ndim else end


def _in_parts(op: AnalogOp, weight: Tensor) -> ChipError:
    return ChipError(
        f"region '{op.region.name}': its weight has shape {tuple(weight.shape)} here instead of "
        f"{tuple(op.array.shape)}, as FullyShardedDataParallel or ZeRO-3 leave it. Shard with "
        "torch.distributed.fsdp.fully_shard (Lightning's ModelParallelStrategy), or call this "
        "within FullyShardedDataParallel.summon_full_params(model)"
    )


def _arrays(model: nn.Module) -> list[WeightArray]:
    unique = {id(op.array): op.array for op in _require_operators(model)}
    return list(unique.values())


def _require_operators(model: nn.Module) -> tuple[AnalogOp, ...]:
    ops = operators(model)
    if not ops:
        raise ChipError(
            f"{type(model).__name__} has no analog operator; rewrite it with analogize() first"
        )
    return ops
