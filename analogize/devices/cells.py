"""The cells of one array: a target's device models applied one after the other.

    weights -> target conductances -> programmed -> drifted -> read -> weights

A model of the programming stage changes what was programmed; drift and 1/f noise change what is
read, with parameters that depend on the target or on the programmed conductance as published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from analogize.devices import curves, drift, programming
from analogize.devices.conductance import from_cells, to_cells
from analogize.devices.correlated import correlated
from analogize.devices.curves import Conductances
from analogize.devices.custom import call, site_of
from analogize.devices.layout import Layout
from analogize.devices.placing import from_tiles, on_tiles, one_a_row
from analogize.devices.random import Draws
from analogize.devices.temperature import activated
from analogize.devices.times import describe
from analogize.devices.wires import ir_drop
from analogize.errors import ChipError
from analogize.quantize import Bound
from analogize.targets import noise as models
from analogize.targets.conductance import Conductance


@dataclass(frozen=True)
class Reading:
    """When and which chip: what one simulation of cells depends on besides the weights.

    Attributes:
        draws: the source of random numbers.
        time: seconds since programming (since the first reading, for models that define one).
        cycle: which programming of the chip; devices keep what is their own.
        conditions: under which it is read, by name: ``temperature`` in kelvin, or any other.
        digit: which digit of a sliced weight the cells hold.
    """

    draws: Draws = field(default_factory=Draws)
    time: float = 0.0
    cycle: int = 0
    conditions: Mapping[str, float] = field(default_factory=dict)
    digit: int = 0

    def of_digit(self, index: int) -> Reading:
        """The same reading of another digit's cells, with draws of their own."""
        return replace(self, draws=self.draws.part(f"digit {index}"), digit=index)


@dataclass(frozen=True)
class Cells:
    """Conductances on their way: shape (2, pairs, *weights) each.

    Attributes:
        target: what was asked for; shape (2, 1, *weights) where it is the same of every pair.
        programmed: what programming left.
        read: what a reading finds.
        layout: where on tiles the weights lie, or None where tiles have no size.
        name: of the array.
    """

    target: Tensor
    programmed: Tensor
    read: Tensor
    layout: Layout | None
    name: str = "array"

    def program(self, conductance: Tensor) -> Cells:
        """The cells after a change of what is programmed."""
        return replace(self, programmed=conductance, read=conductance)


def simulate(
    weights: Tensor,
    full: Bound,
    conductance: Conductance,
    noise: tuple[models.NoiseModel, ...],
    reading: Reading,
    name: str = "array",
    layout: Layout | None = None,
) -> Tensor:
    """The weights that the cells of an array stand for when read; see ``read_cells``."""
    operands = full, conductance, noise, reading, name, layout
    return from_cells(read_cells(weights, *operands), full, conductance)


def read_cells(
    weights: Tensor,
    full: Bound,
    conductance: Conductance,
    noise: tuple[models.NoiseModel, ...],
    reading: Reading,
    name: str = "array",
    layout: Layout | None = None,
) -> Tensor:
    """The conductances of an array's cells when read, shape (2, pairs, *weights).

    Args:
        weights: the intended weights, any shape and unit.
        full: the magnitude that takes the whole conductance range, in the weights' unit.
        conductance: the mapping.
        noise: noise models; those that do not act on devices are passed over.
        reading: chip, time and cycle.
        name: of the array, for error messages.
        layout: where on tiles the weights lie; for wires, neighbours and reference columns.

    Raises:
        ChipError: a time or a loss outside a model's range; the message names array and model.
    """
    pair, g_min, g_max = to_cells(weights, full, conductance), conductance.g_min, conductance.g_max
    first = pair.expand(2, conductance.pairs, *weights.shape)
    cells, bounded = Cells(pair, first, first, layout, name), conductance.bounded
    for index, model in enumerate(noise):
        if not models.acts_on_devices(model):
            continue
        if bounded and isinstance(model, models.IRDropNoise):  # wires are beyond the devices
            cells, bounded = replace(cells, read=cells.read.clamp(g_min, g_max)), False
        try:
            _check_time(model, reading.time)
            step = _STEPS[type(model)]
            cells = step(model, cells, conductance, reading, f"{index} {model.model}")
            if conductance.encoding == "offset":
                cells = _with_reference(cells)
        except ValueError as cause:
            raise ChipError(
                f"'{name}' cannot be read {describe(reading.time)} after programming: "
                f"noise[{index}] ({model.model}): {cause}"
            ) from cause
    return cells.read.clamp(g_min, g_max) if bounded else cells.read


def _with_reference(cells: Cells) -> Cells:
    """G- of every column of a tile is one and the same device: that of the first column."""
    assert cells.layout is not None, "who encodes by an offset says where weights lie"
    shared = [one_a_row(cells.layout, each) for each in (cells.programmed, cells.read)]
    changed = cells.read is not cells.programmed  # one tensor until something is read otherwise
    return replace(cells, programmed=shared[0], read=shared[changed])


def _check_time(model: models.NoiseModel, time: float) -> None:
    until = models.holds_until(model)
    if until is not None and time > until:
        raise ValueError(f"it holds up to {describe(until)} after programming")


def _program(
    model: models.ProgrammingNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    miss = _miss(model, cells.target).scaled(model.scale)
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.programmed)
    return cells.program(miss.applied(cells.programmed, normal))


def _write_verify(
    model: models.WriteVerifyNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    miss, aim = _miss(model, cells.target).scaled(model.scale), cells.programmed
    held = aim
    for attempt in range(model.iterations):
        normal = reading.draws.normal(f"{name} cycle {reading.cycle} attempt {attempt}", aim)
        again = (held - aim).abs() > model.window if attempt else None
        drawn = miss.applied(aim, normal)
        held = drawn if again is None else torch.where(again, drawn, held)
    return cells.program(held)


def _relax(
    model: models.RelaxationNoise, cells: Cells, mapping: Conductance, reading: Reading, name: str
) -> Cells:
    times = [point.time for point in model.points]
    before, after, share = programming.between(times, reading.time, model.interpolation)
    for point in {before: model.points[before], after: model.points[after]}.values():
        _check_point(point, mapping)
    shifted = model.sigma_at == "mean"
    miss = _miss(model.points[before], cells.target, shifted)
    if after != before:
        miss = miss.towards(_miss(model.points[after], cells.target, shifted), share)
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.programmed)
    return cells.program(miss.scaled(model.scale).applied(cells.programmed, normal))


def _check_point(point: models.RelaxationPoint, mapping: Conductance) -> None:
    valid = point.valid
    if valid is not None and not valid.min <= mapping.g_min < mapping.g_max <= valid.max:
        raise ValueError(
            f"its figures at {describe(point.time)} hold from {valid.min:g} to {valid.max:g} "
            f"{mapping.unit}, and the target uses {mapping.g_min:g} to {mapping.g_max:g}; set "
            "conductance.g_max inside, or read the chip earlier"
        )


def _miss(
    model: models.ProgrammingNoise | models.WriteVerifyNoise | models.RelaxationPoint,
    target: Tensor,
    shifted: bool = False,
) -> programming.Miss:
    bias = None if model.bias is None else curves.evaluate(model.bias, target)
    at = target if bias is None or not shifted else (target + bias).clamp_(min=0)
    return programming.Miss(_spread(model.sigma, at), bias)


def _spread(curve: Any, target: Tensor) -> Tensor:
    sigma = curves.evaluate(curve, target)
    message = "a noise model's sigma is negative"
    if torch.compiler.is_compiling():
        torch._assert_async(sigma.min() >= 0, message)
        return sigma
    # An accelerator checks by itself; asking for the value would make the host wait for it.
    try:
        torch._assert_async(sigma.min() >= 0, message)
    except RuntimeError as cause:
        worst = float(target.flatten()[sigma.argmin()])
        message = f"its sigma is negative at a conductance of {worst:.4g}; check the curve"
        raise ValueError(message) from cause
    return sigma


def _vary(
    model: models.VariationNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    moment = f" cycle {reading.cycle}" if model.source == "cycle" else ""
    if model.length is None:
        normal = reading.draws.normal(name + moment, cells.programmed)
    else:
        assert cells.layout is not None, "the target's schema asks for it"
        places = on_tiles(cells.layout, cells.programmed.flatten(0, 1))
        field = correlated(reading.draws.normal(name + moment, places), model.length)
        normal = from_tiles(cells.layout, field).view_as(cells.programmed)
    return cells.program(
        programming.variation(cells.programmed, model.std * model.scale, normal, model.distribution)
    )


def _stick(
    model: models.StuckNoise, cells: Cells, mapping: Conductance, reading: Reading, name: str
) -> Cells:
    uniform = reading.draws.uniform(name, cells.programmed)
    return cells.program(
        programming.stick(
            cells.programmed, model.at_min, model.at_max, uniform, mapping.g_min, mapping.g_max
        )
    )


def _drift(
    model: models.DriftNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    if reading.time == 0:  # nothing has drifted yet, so no exponents are needed
        return cells
    target = Conductances(cells.target)
    nu = drift.drift_exponents(
        curves.evaluate(model.nu_mean, target),
        curves.evaluate(model.nu_std, target),
        reading.draws.normal(name, cells.read),
    )
    if model.scale != 1:
        nu.mul_(model.scale)
    return replace(cells, read=drift.power_law(cells.read, nu, reading.time, model.t0))


def _log_drift(
    model: models.LogDriftNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.read)
    scale = model.scale
    slopes = (model.mean_slope * scale, model.std_intercept * scale, model.std_slope * scale)
    return replace(cells, read=drift.logarithmic(cells.read, *slopes, normal, reading.time))


def _one_over_f(
    model: models.OneOverFNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    # Readings at different times are taken as independent.
    normal = reading.draws.normal(f"{name} cycle {reading.cycle} at {reading.time!r}", cells.read)
    ratio = drift.one_over_f_ratio(model.t0 + reading.time, model.t_read) * model.scale
    if model.sigma is not None:
        sigma = _spread(model.sigma, cells.read).mul_(ratio)
        return replace(cells, read=programming.programming_noise(cells.read, sigma, normal))
    assert model.q is not None, "the schema asks for one of the two"
    q = curves.evaluate(model.q, cells.programmed)
    return replace(cells, read=drift.one_over_f(cells.read, q, ratio, normal))


def _heat(
    model: models.TemperatureNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    temperature = reading.conditions.get("temperature", model.reference)
    if not model.min <= temperature <= model.max:
        raise ValueError(
            f"it holds from {model.min:g} to {model.max:g} K, and the temperature is "
            f"{temperature:g}"
        )
    if temperature == model.reference:
        return cells
    energy = curves.evaluate(model.activation, cells.target)
    return replace(cells, read=activated(cells.read, energy, temperature, model.reference))


def _drop(
    model: models.IRDropNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    assert cells.layout is not None, "the target's schema asks for it"
    devices = cells.read.flatten(0, 1)
    segments = model.row_segment, model.column_segment
    read = ir_drop(devices, cells.layout, *segments, model.solver)
    return replace(cells, read=read.view_as(cells.read))


def _custom(
    model: models.CustomNoise, cells: Cells, mapping: Conductance, reading: Reading, name: str
) -> Cells:
    generator = reading.draws.generator(f"{name} cycle {reading.cycle}")
    site = site_of(model, cells.name, mapping, reading)
    changed = call(model, "conductances", cells.read, reading.time, generator, site=site)
    changed = changed.clamp(min=0)
    # Before anything has happened to what was programmed, it is that which is changed.
    if cells.read is cells.programmed:
        return cells.program(changed)
    return replace(cells, read=changed)


_STEPS: dict[type, Callable[[Any, Cells, Conductance, Reading, str], Cells]] = {
    models.ProgrammingNoise: _program,
    models.WriteVerifyNoise: _write_verify,
    models.RelaxationNoise: _relax,
    models.VariationNoise: _vary,
    models.StuckNoise: _stick,
    models.DriftNoise: _drift,
    models.LogDriftNoise: _log_drift,
    models.OneOverFNoise: _one_over_f,
    models.TemperatureNoise: _heat,
    models.IRDropNoise: _drop,
    models.CustomNoise: _custom,
}


def full_scale(low: Bound, high: Bound) -> Bound:
    """The magnitude of the end of the range [low, high] that is farther from zero."""
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.maximum(low.abs(), high.abs())
    return max(abs(float(low)), abs(float(high)))
