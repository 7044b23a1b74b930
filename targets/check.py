"""Consistency of a target's parts with one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from analogize.targets.base import refuse
from analogize.targets.curve import Curve, Table, parts
from analogize.targets.noise import (
    ADCMismatchNoise,
    CustomNoise,
    GaussianNoise,
    INLNoise,
    IRDropNoise,
    NoiseModel,
    NonlinearIVNoise,
    OutputNoise,
    ProgrammingNoise,
    ReadNoise,
    RelaxationNoise,
    SaturationNoise,
    StuckNoise,
    VariationNoise,
    WriteVerifyNoise,
    acts_on_devices,
)

if TYPE_CHECKING:
    from analogize.targets.spec import Target

_PROGRAMMING = ProgrammingNoise | WriteVerifyNoise | RelaxationNoise | VariationNoise | StuckNoise
_NO_CLIPPING = "'range: {kind: absmax}' clips nothing"


def check_range(target: Target) -> None:
    """Everything that refers to W_max - W_min needs the range that defines it (eq. 8)."""
    if target.weights.range is not None:
        return
    for index, model in enumerate(target.noise):
        if isinstance(model, GaussianNoise):
            reason = f"eta is a share of W_max - W_min, so give weights.range; {_NO_CLIPPING}"
            raise refuse(f"noise.{index}.eta", reason)
        if isinstance(model, ReadNoise) and model.additive:
            reason = f"it is a share of W_max - W_min, so give weights.range; {_NO_CLIPPING}"
            raise refuse(f"noise.{index}.additive", reason)
    if target.conductance is not None:
        reason = f"g_max stands for the end of a range, so give weights.range; {_NO_CLIPPING}"
        raise refuse("conductance", reason)


def check_devices(target: Target) -> None:
    """Device models need conductances, inside the range that their figures were measured in."""
    late: str | None = None
    for index, model in enumerate(target.noise):
        if isinstance(model, ReadNoise) and model.sigma is not None and not target.conductance:
            reason = "it is a curve over conductances, so give the target 'conductance'"
            raise refuse(f"noise.{index}.sigma", reason)
        if not acts_on_devices(model):
            continue
        late = _check_order(model, index, late)
        _check_conductance(target, model, index)


def _check_order(model: NoiseModel, index: int, late: str | None) -> str | None:
    """Programming, then time, then wires; returns the last model that is no programming.

    A function of the user's may be any of them but the wires: where it stands says which.
    """
    if isinstance(model, _PROGRAMMING):
        if late is not None:
            reason = f"it happens during programming, so list it before '{late}'"
            raise refuse(f"noise.{index}.model", reason)
        return None
    if late == "ir_drop":
        reason = "wires come in when all cells are as they are read, so list it before 'ir_drop'"
        raise refuse(f"noise.{index}.model", reason)
    return late if isinstance(model, CustomNoise) else model.model


def _check_conductance(target: Target, model: NoiseModel, index: int) -> None:
    conductance = target.conductance
    if conductance is None:
        name = model.model if not isinstance(model, CustomNoise) else "on: devices"
        reason = f"'{name}' acts on conductances, so give the target 'conductance'"
        raise refuse(f"noise.{index}.model", reason)
    if isinstance(model, IRDropNoise):
        if conductance.encoding == "offset":
            reason = "the wires of a reference column are not modelled; give encoding: pair"
            raise refuse(f"noise.{index}.model", reason)
        if target.array is None:
            reason = "wires are as long as a tile, so give the target 'array'"
            raise refuse(f"noise.{index}.model", reason)
        if conductance.unit != "uS":
            reason = f"ohms need siemens, so give conductances in uS, not {conductance.unit}"
            raise refuse(f"noise.{index}.model", reason)
    if isinstance(model, VariationNoise) and model.length is not None and target.array is None:
        reason = "neighbours are those on a tile, so give the target 'array'"
        raise refuse(f"noise.{index}.length", reason)
    for key, low, high in _bounds(model):
        if not low <= conductance.g_min < conductance.g_max <= high:
            reason = (
                f"its figures hold from {low:g} to {high:g} {conductance.unit}, and the target "
                f"uses {conductance.g_min:g} to {conductance.g_max:g}; stay inside, or give "
                "curves that were measured there"
            )
            raise refuse(f"noise.{index}.{key}", reason)


def _bounds(model: NoiseModel) -> Iterator[tuple[str, float, float]]:
    """Key, smallest and largest conductance of every figure of ``model`` that has bounds.

    A point in time may hold for fewer conductances than the target uses: then the target is refused
    at that time, and not before.
    """
    valid = getattr(model, "valid", None)
    if valid is not None:
        yield "valid", valid.min, valid.max
    for key in ("sigma", "bias", "nu_mean", "nu_std", "q", "activation"):
        yield from _table_bounds(key, getattr(model, key, None))
    if isinstance(model, RelaxationNoise):
        for number, point in enumerate(model.points):
            for key in ("sigma", "bias"):
                yield from _table_bounds(f"points.{number}.{key}", getattr(point, key))


def _table_bounds(key: str, curve: Curve | None) -> Iterator[tuple[str, float, float]]:
    if curve is None:
        return
    tables = [part for part in parts(curve) if isinstance(part, Table)]
    if len(tables) == len(parts(curve)):  # of mixed pieces others may cover the rest
        yield key, min(t.ends[0] for t in tables), max(t.ends[1] for t in tables)


def check_output(target: Target) -> None:
    """Output noise refers to the ADC's range, and drift compensation to conductances."""
    for index, model in enumerate(target.noise):
        if isinstance(model, OutputNoise) and target.adc.bits is None:
            reason = "it is a share of the ADC's range, so give adc.bits"
            raise refuse(f"noise.{index}.std", reason)
    if target.compensation != "none" and target.conductance is None:
        raise refuse("compensation", "it corrects drift, so give the target 'conductance'")
    if target.compensation == "tile" and target.array is None:
        raise refuse("compensation", "it is about tiles, so give the target 'array'")


def check_signals(target: Target) -> None:
    """Models of inputs, sums and converters need the converter whose steps they count in."""
    for index, model in enumerate(target.noise):
        on = getattr(model, "on", None)
        is_custom = isinstance(model, CustomNoise)
        of_dac = isinstance(model, NonlinearIVNoise | SaturationNoise)
        of_adc = isinstance(model, ADCMismatchNoise)
        if isinstance(model, INLNoise) or is_custom:
            of_dac, of_adc = on == "inputs" and not is_custom, on == "converter"
        name = f"'{model.model}'" if not is_custom else f"a function on {on}"
        if of_dac and target.dac.bits is None:
            raise refuse(f"noise.{index}.model", f"{name} counts in the DAC's codes: give dac.bits")
        if of_adc and target.adc.bits is None:
            raise refuse(f"noise.{index}.model", f"{name} counts in the ADC's steps: give adc.bits")
        if isinstance(model, SaturationNoise) and target.weights.range is None:
            reason = f"it counts in full-scale weights, so give weights.range; {_NO_CLIPPING}"
            raise refuse(f"noise.{index}.limit", reason)


def check_converters(target: Target) -> None:
    """Ranges that only one of the two converters can have, and what they count in."""
    dac, adc = target.dac, target.adc
    if dac.range.kind in ("full", "bound"):
        raise refuse("dac.range.kind", "a DAC has no sums to cover; use mse, vector or fixed")
    if dac.granularity != "tensor":
        reason = (
            "a DAC serves all columns alike; use granularity: tensor, or a range of kind: vector"
        )
        raise refuse("dac.granularity", reason)
    if adc.range.kind == "vector":
        raise refuse("adc.range.kind", "an ADC sees one sum at a time; use granularity: channel")
    if adc.granularity == "channel" and adc.range.kind in ("full", "bound", "fixed"):
        reason = f"a range of kind: {adc.range.kind} is one for all columns; use mse or minmax"
        raise refuse("adc.granularity", reason)
    if adc.range.kind == "bound" and adc.bits is not None:
        for key, missing in (("dac.bits", dac.bits), ("weights.range", target.weights.range)):
            if missing is None:
                raise refuse("adc.range.kind", f"it counts in full scales, so give {key}")


def _check_sides(target: Target) -> None:
    """What is one a column is one a row from the other side, which no array can undo."""
    reason = "columns are rows from the other side; use 'tensor', or transposable: false"
    if target.weights.granularity != "tensor":
        raise refuse("weights.granularity", reason)
    if target.conductance is not None and target.conductance.scale != "tensor":
        raise refuse("conductance.scale", reason)
    if target.conductance is not None and target.conductance.encoding != "pair":
        raise refuse("conductance.encoding", "a reference column has one side; use 'pair'")
    if target.compensation not in ("none", "global"):
        raise refuse("compensation", "a factor of one side alone; use 'global' or 'none'")


def check_digits(target: Target) -> None:
    """A full range and digits are about integer codes; digits are converted one by one."""
    array, in_codes = target.array, target.dac.bits is not None and target.weights.bits is not None
    if array is not None and array.transposable:
        _check_sides(target)
    full = target.adc.range.kind == "full"
    if full and target.adc.bits is not None and not in_codes:
        raise refuse("adc.range.kind", "it counts codes, so give dac.bits and weights.bits")
    if array is None:
        return
    for key in ("cell_bits", "input_bits"):
        if getattr(array, key) is None:
            continue
        if not array.tiling:
            raise refuse(f"array.{key}", "digits are converted one by one, so set tiling: true")
        if not in_codes:
            raise refuse(f"array.{key}", "digits are of codes: give dac.bits and weights.bits")
        if target.adc.bits is not None and not full:
            reason = "digits have sums of their own, so give adc.range {kind: full}, or no adc.bits"
            raise refuse(f"array.{key}", reason)
    if array.cell_bits and target.conductance and target.conductance.scale == "column":
        raise refuse("array.cell_bits", "digits share one scale; use conductance.scale: tensor")
