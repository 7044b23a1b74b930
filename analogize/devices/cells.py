"""The cells of one array: a target's device models applied one after the other.

    weights -> target conductances -> programmed -> drifted -> read -> weights

A model of the programming stage changes what was programmed; drift and 1/f noise change what is
read, with parameters that depend on the target or on the programmed conductance as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from analogize.devices import curves, drift, programming
from analogize.devices.conductance import from_pairs, to_pairs
from analogize.devices.curves import Conductances
from analogize.devices.custom import resolve
from analogize.devices.random import Draws
from analogize.devices.times import describe
from analogize.devices.wires import Layout, ir_drop
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
    """

    draws: Draws = field(default_factory=Draws)
    time: float = 0.0
    cycle: int = 0

    def part(self, name: str) -> Reading:
        """The same reading of another part of the array, with draws of its own."""
        key = self.draws.key
        return self if key is None else replace(self, draws=Draws(f"{key}/{name}"))


@dataclass(frozen=True)
class Cells:
    """Conductances on their way: shape (2, pairs, *weights) each.

    Attributes:
        target: what was asked for, the same of every pair: shape (2, 1, *weights).
        programmed: what programming left.
        read: what a reading finds.
        layout: where on tiles the weights lie, or None where tiles have no size.
    """

    target: Tensor
    programmed: Tensor
    read: Tensor
    layout: Layout | None

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
    """The weights that the cells of an array stand for when read.

    Args:
        weights: the intended weights, any shape and unit.
        full: the magnitude that takes the whole conductance range, in the weights' unit.
        conductance: the mapping.
        noise: noise models; those that do not act on devices are passed over.
        reading: chip, time and cycle.
        name: of the array, for error messages.
        layout: where on tiles the weights lie; needed by models of the wires alone.

    Raises:
        ChipError: a time or a loss outside a model's range; the message names array and model.
    """
    g_min, g_max = conductance.g_min, conductance.g_max
    pair = to_pairs(weights, full, g_min, g_max).unsqueeze(1)
    first = pair.expand(2, conductance.pairs, *weights.shape)
    cells = Cells(pair, first, first, layout)
    for index, model in enumerate(noise):
        if models.acts_on_devices(model):
            step = _STEPS[type(model)]
            try:
                cells = step(model, cells, conductance, reading, f"{index} {model.model}")
            except ValueError as cause:
                raise ChipError(
                    f"'{name}' cannot be read {describe(reading.time)} after programming: "
                    f"noise[{index}] ({model.model}): {cause}"
                ) from cause
    read = cells.read.squeeze(1) if conductance.pairs == 1 else cells.read.mean(1)
    return from_pairs(read, full, g_min, g_max)


def _program(
    model: models.ProgrammingNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    sigma = _spread(model.sigma, cells.target)
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.programmed)
    return cells.program(programming.programming_noise(cells.programmed, sigma, normal))


def _relax(
    model: models.RelaxationNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    sigma = programming.interpolated_sigma(
        [_spread(point.sigma, cells.target) for point in model.points],
        [point.time for point in model.points],
        reading.time,
    )
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.programmed)
    return cells.program(programming.programming_noise(cells.programmed, sigma, normal))


def _spread(curve: Any, target: Tensor) -> Tensor:
    sigma = curves.evaluate(curve, target)
    if torch.compiler.is_compiling():  # a graph cannot branch on a value, but it can stop at one
        torch._assert_async(sigma.min() >= 0, "a noise model's sigma is negative")
    elif float(sigma.min()) < 0:
        worst = float(target.flatten()[sigma.argmin()])
        raise ValueError(f"its sigma is negative at a conductance of {worst:.4g}; check the curve")
    return sigma


def _vary(
    model: models.VariationNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    moment = f" cycle {reading.cycle}" if model.source == "cycle" else ""
    normal = reading.draws.normal(name + moment, cells.programmed)
    return cells.program(
        programming.variation(cells.programmed, model.std, normal, model.distribution)
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
    return replace(cells, read=drift.power_law(cells.read, nu, reading.time, model.t0))


def _log_drift(
    model: models.LogDriftNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    normal = reading.draws.normal(f"{name} cycle {reading.cycle}", cells.read)
    slopes = (model.mean_slope, model.std_intercept, model.std_slope)
    return replace(cells, read=drift.logarithmic(cells.read, *slopes, normal, reading.time))


def _one_over_f(
    model: models.OneOverFNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    # Readings at different times are taken as independent.
    normal = reading.draws.normal(f"{name} cycle {reading.cycle} at {reading.time!r}", cells.read)
    ratio = drift.one_over_f_ratio(model.t0 + reading.time, model.t_read)
    q = curves.evaluate(model.q, cells.programmed)
    return replace(cells, read=drift.one_over_f(cells.read, q, ratio, normal))


def _drop(
    model: models.IRDropNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    assert cells.layout is not None, "the target's schema asks for it"
    devices = cells.read.flatten(0, 1)
    read = ir_drop(devices, cells.layout, model.row_segment, model.column_segment)
    return replace(cells, read=read.view_as(cells.read))


def _custom(
    model: models.CustomNoise, cells: Cells, _: Conductance, reading: Reading, name: str
) -> Cells:
    function = resolve(model.function)
    generator = reading.draws.generator(f"{name} cycle {reading.cycle}")
    changed = function(cells.read, reading.time, generator, **model.parameters)
    if not isinstance(changed, Tensor) or changed.shape != cells.read.shape:
        got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ChipError(
            f"the noise model '{model.function}' must return conductances of the shape "
            f"{tuple(cells.read.shape)} that it was given, not {got}"
        )
    return replace(cells, read=changed.clamp(min=0))


_STEPS: dict[type, Callable[[Any, Cells, Conductance, Reading, str], Cells]] = {
    models.ProgrammingNoise: _program,
    models.RelaxationNoise: _relax,
    models.VariationNoise: _vary,
    models.StuckNoise: _stick,
    models.DriftNoise: _drift,
    models.LogDriftNoise: _log_drift,
    models.OneOverFNoise: _one_over_f,
    models.IRDropNoise: _drop,
    models.CustomNoise: _custom,
}


def full_scale(low: Bound, high: Bound) -> Bound:
    """The magnitude of the end of the range [low, high] that is farther from zero."""
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.maximum(low.abs(), high.abs())
    return max(abs(float(low)), abs(float(high)))
