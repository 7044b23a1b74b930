"""The array: clipped, quantized and noisy weights, and the chip programmed from them.

The array works in *array units*: zero-centred integer codes where some converter has bits, so that
accumulation is exact; plain weight units where the array is the only stage (then no activation has
to be rescaled). A stage without bits has scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from analogize.crossbar import noise
from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.conductances import Drawn, simulate_cells
from analogize.crossbar.converter import FixedRange
from analogize.crossbar.rounding import quantized
from analogize.crossbar.seeds import no_chip, outdated, region_seed
from analogize.crossbar.weight_range import find_range
from analogize.crossbar.witness import Witness
from analogize.devices.cells import Reading, full_scale
from analogize.devices.compensation import factors, viewed
from analogize.devices.custom import site_of
from analogize.devices.layout import Layout
from analogize.devices.random import Draws
from analogize.devices.reading import read_once
from analogize.devices.slicing import combine, digits_of, split
from analogize.model.stored import StoredWeight
from analogize.product import Product
from analogize.quantize import Bound, Grid, clamp, to_codes
from analogize.targets import spec
from analogize.targets.noise import CustomNoise, acts_on_devices

aten = torch.ops.aten
FRESH = Reading()


class WeightArray(FixedRange):
    """One crossbar array holding one weight tensor, for one or several operators.

    Attributes:
        name: the region's name, from which its random seeds derive.
        limits: (W_min, W_max), viewed against the weights, or None without clipping.
        noise: the noise models, drawn in this order and added.
        folded: True if the array works in weight units, False for integer codes.
        conductance: how weights become conductances, or None.
        compensation: how the target corrects drift.
        cell_bits: bits of a weight that one pair of cells holds, or None for all of them.
        ends: the smallest and largest code of a clipped weight, where one range holds for all
            channels; None otherwise.
        step: the grid's step as a number, likewise.
        place: where this array's draws lie in a larger one; ``fresh.arrange`` tells.
        chip: the programmed weights in array units, or None; digits first where cells hold digits.
        correction: what the chip's output is multiplied by digitally, viewed against it, or None;
            with one factor a tile, rows of tiles first.
        origin: how the chip was drawn, or the data that it was given as; None without a chip.
        witness: the weights that the chip was programmed from; None for a chip of any weights.
    """

    chip: Tensor | None
    correction: Tensor | None

    def __init__(
        self, weight: Tensor, product: Product, target: spec.Target, name: str, folded: bool
    ) -> None:
        self.product, self.name, self.folded = product, name, folded
        self.shape = weight.shape
        self.settings = settings = target.weights
        ends = find_range(weight, product, settings, name)
        super().__init__(ends, settings.bits, settings.grid, matters=settings.range is not None)
        self.noise: tuple[spec.NoiseModel, ...] = target.noise
        size = target.array
        self.cell_bits = None if size is None else size.cell_bits
        self.layout = None if size is None else Layout(product, self.shape, size.rows, size.cols)
        self.conductance, self.compensation = target.conductance, target.compensation
        self.register_buffer("chip", None, persistent=False)
        self.register_buffer("correction", None, persistent=False)
        self.origin: Drawn | ArrayData | None = None
        self.place: tuple[Any, int] | None = None
        self.witness: Witness | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the range waits for weights, after a rewriting on the meta device."""
        wanted = self.settings.range is not None
        return wanted and (self.range.is_meta or bool(self.range.isnan().any()))

    def settle(self, weight: Tensor) -> None:
        """Find the range from ``weight`` if it is pending; on the meta device it stays so.

        Raises:
            PassError: the weights give no range.
        """
        if self.is_pending and not weight.is_meta:
            self.range = find_range(weight, self.product, self.settings, self.name).float()
            self.refresh()

    @property
    def is_known(self) -> bool:
        """Whether the range is a finite one."""
        return self.range.numel() > 0 and super().is_known

    @property
    def clips(self) -> bool:
        """Whether the weights are confined to a range at all."""
        return self.limits is not None

    @property
    def is_silent(self) -> bool:
        """Whether no noise model ever deviates from the clean weights."""
        return all(noise.is_silent(model) for model in self.noise)

    def refresh(self) -> None:
        """Lay grid and limits anew from the range buffer."""
        super().refresh()
        self.limits: tuple[Bound, Bound] | None = None
        self._edges: tuple[float, ...] | None = None
        self.ends: tuple[float, float] | None = None
        self.step: float | None = None
        if self.range.is_meta or not self.is_known:
            return
        if self.range.ndim == 1:
            low, high = self.range.tolist()
            self.limits = low, high
            # hardtanh_backward excludes its limits; the next float beyond them includes ours.
            outward = torch.tensor([-torch.inf, torch.inf])
            self._edges = tuple(torch.nextafter(self.range.cpu(), outward).tolist())
            if self.scale is not None:
                # Rounding is monotone, so the clipped ends' codes bound all others.
                first, last = (self.range / self.scale).round().tolist()
                self.ends = max(first, float(self.low)), min(last, float(self.high))
                self.step = float(self.scale)
        else:
            self.limits = self._view(self.range[0]), self._view(self.range[1])

    def _view(self, values: Bound) -> Bound:
        """One value an output channel, viewed against the weights; a single value as it is."""
        if isinstance(values, Tensor) and values.ndim:
            return self.product.channels(values, self.shape)
        return values

    @property
    def grid(self) -> Grid | None:
        """The grid on the range, viewed against the weights, or None without bits."""
        if self.scale is None:
            return None
        scale = (
            self.scale if self.scale.ndim == 0 else self.product.channels(self.scale, self.shape)
        )
        return Grid(scale, self._view(self.low), self._view(self.high))

    @property
    def output_scale(self) -> Tensor | None:
        """Weight units in one array unit, viewed against the product's output; None for 1."""
        if self.scale is None or self.folded:
            return None
        return self.scale if self.scale.ndim == 0 else self.product.output_channels(self.scale)

    def clean(self, weight: Tensor) -> Tensor:
        """Clipped and quantized weights in array units, without noise; not differentiable."""
        if self.limits is None:
            return weight
        if self.ends is not None and self.scale is not None and weight.dtype == torch.float32:
            gain = self.scale if self.folded else None
            return quantized(weight, self.scale, *self.ends, gain, weight.dtype)
        clipped = clamp(weight, *self.limits)
        grid = self.grid
        if grid is None:
            return clipped
        codes = to_codes(clipped, grid)
        return codes.mul_(grid.scale) if self.folded else codes

    def real(self, weight: Tensor) -> Tensor:
        """Clipped and quantized weights in weight units, without noise; not differentiable."""
        if self.ends is not None and self.scale is not None and weight.dtype == torch.float32:
            return quantized(weight, self.scale, *self.ends, self.scale, weight.dtype)
        clean, grid = self.clean(weight), self.grid
        return clean if grid is None or self.folded else clean.mul_(grid.scale)

    def mask_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Zero a gradient where a weight lies outside the range: the derivative of the clipping.

        A weight on either end of the range counts as inside, so that projected weights can return.
        """
        if self.limits is None:
            return grad
        if self._edges is not None and weight.dtype == torch.float32:
            return aten.hardtanh_backward(grad, weight, *self._edges)  # type: ignore[no-any-return]
        low, high = self.limits
        return grad * ((weight >= low) & (weight <= high))

    def noisy(
        self,
        clean: Tensor,
        generator: noise.Source = None,
        reading: Reading = FRESH,
    ) -> Tensor:
        """``clean`` with one draw of every noise model on devices and weights, in array units.

        Returns ``clean`` itself, not a copy, when no model is noisy: sigma = 0 is the identity.

        Raises:
            ChipError: the reading's time is outside the range of a model.
        """
        if self.cell_bits is None:
            return self._deviate(clean, *self._span(), generator, reading)
        low, high = self._span()
        parts = [
            self._deviate(digit, low, high, source, reading.of_digit(index))
            for index, digit in enumerate(self.digits(clean))
            for source in [_part(generator, f"digit {index}")]
        ]
        return torch.stack(parts)

    def _deviate(
        self,
        clean: Tensor,
        low: Bound,
        high: Bound,
        generator: noise.Source,
        reading: Reading,
    ) -> Tensor:
        total = clean
        if any(acts_on_devices(model) and not noise.is_silent(model) for model in self.noise):
            total = simulate_cells(self, clean, reading)
        for index, model in enumerate(self.noise):
            source = _part(generator, f"noise {index}") if index else generator
            site = None
            if isinstance(model, CustomNoise):
                site = site_of(model, self.name, self.conductance, reading)
            deviation = noise.draw(model, clean, low, high, source, site)
            if deviation is not None:
                total = deviation.add_(total)
        return total

    def digits(self, clean: Tensor) -> Tensor:
        """Clean codes as the digits that cells hold, stacked; themselves without bit slicing."""
        if self.cell_bits is None:
            return clean
        return split(clean, self.cell_bits, self.cells_a_weight)

    def whole(self, weights: Tensor) -> Tensor:
        """The weights that stacked digits stand for; themselves without bit slicing."""
        return weights if self.cell_bits is None else combine(weights, self.cell_bits)

    @property
    def cells_a_weight(self) -> int:
        """How many digits a weight has in the array; 1 without bit slicing."""
        return 1 if self.cell_bits is None else digits_of(self._largest_code, self.cell_bits)

    @property
    def _largest_code(self) -> float:
        ends = [torch.as_tensor(end).abs().max() for end in (self.low, self.high)]
        return float(max(ends))

    def _span(self) -> tuple[Bound, Bound]:
        """W_min and W_max in array units; of a digit, where cells hold digits."""
        if self.cell_bits is not None:
            largest = min(2.0**self.cell_bits - 1, self._largest_code)
            return -largest, largest
        grid = self.grid
        if grid is None:
            return self.limits or (float("nan"), float("nan"))
        return grid.range if self.folded else (grid.low, grid.high)

    @property
    def full(self) -> Bound:
        """The end of the range that is farther from zero, in array units, against the weights."""
        return full_scale(*self._span())

    @property
    def width(self) -> Bound:
        """W_max - W_min in array units, viewed against the product's output."""
        if self.cell_bits is not None:
            return 2 * float(self.full)
        if self.scale is None:
            width: Bound = self.range[1] - self.range[0]
        else:
            width = (self.high - self.low) * (self.scale if self.folded else 1.0)
        if isinstance(width, Tensor) and width.ndim:
            return self.product.output_channels(width)
        return width

    def program(
        self,
        weight: Tensor,
        seed: int,
        drift_time: float = 0.0,
        compensation: spec.Compensation | None = None,
        cycle: int = 0,
        name: str | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> None:
        """Draw this array's part of chip ``seed``, read at ``drift_time``, and keep it.

        The draws are those of the region ``name``; by default the array's own. See ``hold``.

        Raises:
            ChipError: the time is outside the range of a noise model.
        """
        self.settle(weight)
        chip = self.draw(weight, seed, drift_time, cycle, name, conditions)
        rule = self.compensation if compensation is None else compensation
        correction = None
        reading = self._reading(seed, drift_time, cycle, name, conditions)
        if rule != "none" and drift_time > 0 and self.conductance is not None:
            first = self.draw(weight, seed, 0.0, cycle, name)
            before = self._read_once(first, self._reading(seed, 0.0, cycle, name, None))
            found = factors(before, self._read_once(chip, reading), self.product, rule, self.layout)
            correction = viewed(found, self.product)
        drawn = Drawn(reading, self.noise)
        self.hold(chip, correction, drawn)

    def _read_once(self, chip: Tensor, reading: Reading) -> Tensor:
        """The whole weights as one reading of every row finds them, with its read noise."""
        low, high = self._span()
        at = f"compensation cycle {reading.cycle} at {reading.time!r}"
        return self.whole(
            read_once(self.noise, chip, high - low, self.conductance, self.full, reading.draws, at)
        )

    def hold(
        self, chip: Tensor, correction: Tensor | None, origin: Drawn | ArrayData | None
    ) -> None:
        """Keep ``chip``; its ``witness`` is to be set then."""
        # Kernels add up in another order where weights lie otherwise in memory.
        self.chip, self.correction, self.origin = chip.contiguous(), correction, origin
        self.witness = None

    def _reading(
        self,
        seed: int,
        drift_time: float,
        cycle: int,
        name: str | None,
        conditions: Mapping[str, float] | None,
    ) -> Reading:
        draws = Draws(f"{seed}/{self.name if name is None else name}")
        return Reading(draws, drift_time, cycle, conditions or {})

    @torch.no_grad()
    def draw(
        self,
        weight: Tensor,
        seed: int,
        drift_time: float = 0.0,
        cycle: int = 0,
        name: str | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> Tensor:
        """This array's part of chip ``seed`` in array units, read at ``drift_time``; see program.

        Raises:
            ChipError: the time is outside the range of a noise model.
        """
        name = self.name if name is None else name
        # Another cycle is another draw; the first keeps the seed that it always had.
        again = f" cycle {cycle}" if cycle else ""
        generator = torch.Generator("cpu").manual_seed(region_seed(seed, name + again))
        reading = self._reading(seed, drift_time, cycle, name, conditions)
        clean = self.clean(weight.detach())
        chip = self.noisy(clean, generator, reading)
        return chip.clone() if chip is clean else chip

    def programmed(self, weight: Tensor, stored: StoredWeight, inputs: int | None = None) -> Tensor:
        """The chip's weights in array units.

        Args:
            weight: the weight as it is now.
            stored: where it comes from.
            inputs: how many inputs the product multiplies by it; None for many.

        Raises:
            ChipError: nothing was programmed, or the weights have changed since.
        """
        if self.chip is None:
            raise no_chip(self.name)
        if self.witness is not None and not torch.compiler.is_compiling():
            difference = self.witness.difference(weight, stored, inputs)
            if difference is not None:
                raise outdated(self.name, difference)
        return self.chip

    def erase(self) -> None:
        """Forget the programmed chip."""
        self.chip = self.correction = self.origin = self.witness = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.erase()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.chip
        super()._apply(fn, recurse)
        if before is not None and self.chip is not None and self.witness is not None:
            self.witness.cast(before.dtype, self.chip.dtype)
        return self

    def extra_repr(self) -> str:
        """Shape, bits and range, for ``print(model)``."""
        bits = "no bits" if self.bits is None else f"{self.bits} bits"
        if self.range.ndim > 1:
            return f"{tuple(self.shape)}, {bits}, per-channel range"
        return f"{tuple(self.shape)}, {bits}, [{self.range[0]:.4g}, {self.range[1]:.4g}]"


def _part(source: noise.Source, name: str) -> noise.Source:
    """Draws of their own for a part; a generator goes on where it is."""
    return source.part(name) if isinstance(source, Draws) else source
