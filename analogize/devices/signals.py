"""What drivers, columns and converters of a chip make of its signals.

    codes of the DAC --inputs--> array --outputs--> sums --converter--> ADC

Random numbers are those of the chip: the same converter has the same error at every product. Every
output channel of every row of tiles, and of every digit of a weight, has a column of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from analogize.devices.cells import Reading
from analogize.devices.custom import Site, call
from analogize.product import Convolution, Product, output_channels
from analogize.quantize import Bound
from analogize.targets import noise as models
from analogize.targets.conductance import Conductance


@dataclass(frozen=True)
class Part:
    """Which product of an operator: row of tiles, digit of the weights, digit of the inputs."""

    tile: int = 0
    digit: int = 0
    input_digit: int = 0


WHOLE = Part()


@dataclass(frozen=True)
class Signals:
    """The models of one operator's signals on one chip.

    Attributes:
        noise: the target's models; those that do not act on signals are passed over.
        reading: chip, time and conditions.
        region: the array's name.
        product: how it is multiplied.
        shape: of the weights.
        largest_input: magnitude of the largest code that the rows receive; 0 without a DAC.
        full_sum: a full-scale input times a full-scale weight, in array units.
        step: the ADC's step in array units, or None without an ADC.
        codes: the ADC's smallest and largest code.
        conductance: the mapping, or None.
    """

    noise: tuple[models.NoiseModel, ...]
    reading: Reading
    region: str
    product: Product
    shape: torch.Size
    largest_input: float
    full_sum: float
    step: Tensor | None
    codes: tuple[Bound, Bound]
    conductance: Conductance | None

    def inputs(self, codes: Tensor, part: Part = WHOLE) -> Tensor:
        """What the rows receive of the DAC's ``codes``."""
        for index, model in enumerate(self.noise):
            step = _INPUTS.get(type(model))
            if step is not None and getattr(model, "on", "inputs") == "inputs":
                codes = step(self, model, codes, part, index)
        return codes

    def outputs(self, sums: Tensor, part: Part = WHOLE) -> Tensor:
        """What the ADC sees of ``sums``, in array units; may overwrite them."""
        for index, model in enumerate(self.noise):
            step = _OUTPUTS.get(type(model))
            if step is not None and getattr(model, "on", "outputs") == "outputs":
                sums = step(self, model, sums, part, index)
        if self.step is None or not any(map(_is_of_converter, self.noise)):
            return sums
        values = sums / self.step
        for index, model in enumerate(self.noise):
            if _is_of_converter(model):
                values = _CONVERTER[type(model)](self, model, values, part, index)
        return values.mul_(self.step)

    def column_draw(self, name: str, part: Part, like: Tensor, shared: int = 1) -> Tensor:
        """N(0, 1) of every column, viewed against the output; ``shared`` neighbours have one."""
        channels = output_channels(self.product, self.shape)
        name = f"{name} tile {part.tile} digit {part.digit}"
        drawn: Tensor = self._draw(name, channels, like, shared)
        if not isinstance(self.product, Convolution) and len(self.shape) == 1:
            return drawn.view(())
        return self.product.output_channels(drawn)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, name: str, channels: int, like: Tensor, shared: int) -> Tensor:
        groups, _, columns = self.product.matrix(self.shape)
        each = math.ceil(columns / shared)
        drawn = self.reading.draws.normal(name, like.new_empty(groups, each))
        if shared == 1:
            return drawn.view(channels)
        return drawn.repeat_interleave(shared, 1)[:, :columns].reshape(channels)

    def site(self, model: models.CustomNoise, part: Part) -> Site:
        """Where and under which conditions a function of the user's acts."""
        low, high = self.codes if model.on != "inputs" else (-self.largest_input,) * 2
        if model.on == "inputs":
            high = self.largest_input
        axis = -1 - self.product.dimensions if isinstance(self.product, Convolution) else -1
        return Site(
            region=self.region,
            on=model.on,
            tile=part.tile,
            digit=part.digit,
            input_digit=part.input_digit,
            axis=None if model.on == "inputs" else axis,
            low=low,
            high=high,
            full_sum=self.full_sum,
            conductance=self.conductance,
            drift_time=self.reading.time,
            cycle=self.reading.cycle,
            conditions=self.reading.conditions,
        )


def _is_of_converter(model: models.NoiseModel) -> bool:
    return type(model) in _CONVERTER and getattr(model, "on", "converter") == "converter"


def interpolated(at: Tensor, values: tuple[float, ...]) -> Tensor:
    """Straight lines through ``values`` at 0, 1, 2, ...; beyond the ends, the nearest value."""
    table = at.new_tensor(values)
    at = at.clamp(0, len(values) - 1)
    before = at.floor().clamp_(max=len(values) - 2)
    index = before.long()
    return torch.lerp(table[index], table[index + 1], at - before)


def _dac_inl(
    signals: Signals, model: models.INLNoise, codes: Tensor, part: Part, index: int
) -> Tensor:
    most = signals.largest_input
    at = (codes + most) * ((len(model.deviation) - 1) / (2 * most))
    return codes + interpolated(at, model.deviation)


def _nonlinear_iv(
    signals: Signals, model: models.NonlinearIVNoise, codes: Tensor, part: Part, index: int
) -> Tensor:
    b, most = 2 * math.acosh(model.ratio / 2), signals.largest_input
    if b == 0:  # a resistor
        return codes
    return (codes * (b / most)).sinh_().mul_(most / math.sinh(b))


def _saturation(
    signals: Signals, model: models.SaturationNoise, sums: Tensor, part: Part, index: int
) -> Tensor:
    limit = model.limit * signals.full_sum
    if model.shape == "hard":
        return sums.clamp(-limit, limit)
    return (sums / limit).tanh_().mul_(limit)


def _mismatch(
    signals: Signals, model: models.ADCMismatchNoise, values: Tensor, part: Part, index: int
) -> Tensor:
    def drawn(what: str, std: float) -> Tensor:
        normal = signals.column_draw(f"{index} adc_mismatch {what}", part, values, model.columns)
        return normal * std

    if model.gain:
        values = values * (1 + drawn("gain", model.gain))
    return values + drawn("offset", model.offset) if model.offset else values


def _adc_inl(
    signals: Signals, model: models.INLNoise, values: Tensor, part: Part, index: int
) -> Tensor:
    low, high = signals.codes
    at = (values - low) * ((len(model.deviation) - 1) / (high - low))
    return values + interpolated(at, model.deviation)


def _custom(
    signals: Signals, model: models.CustomNoise, values: Tensor, part: Part, index: int
) -> Tensor:
    place = f"tile {part.tile} digit {part.digit} input {part.input_digit}"
    generator = signals.reading.draws.generator(f"{index} custom {place}")
    changed = call(model, model.on, values, signals.site(model, part), generator)
    # What follows writes into it, and the function may keep its result.
    return changed.clone()


_Step = Callable[[Signals, Any, Tensor, Part, int], Tensor]
_INPUTS: dict[type, _Step] = {
    models.INLNoise: _dac_inl,
    models.NonlinearIVNoise: _nonlinear_iv,
    models.CustomNoise: _custom,
}
_OUTPUTS: dict[type, _Step] = {
    models.SaturationNoise: _saturation,
    models.CustomNoise: _custom,
}
_CONVERTER: dict[type, _Step] = {
    models.ADCMismatchNoise: _mismatch,
    models.INLNoise: _adc_inl,
    models.CustomNoise: _custom,
}
