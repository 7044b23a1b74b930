"""The array: noisy weights, in the array units of held.py, and the chip programmed from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from analogize.crossbar import blocks, noise
from analogize.crossbar.blocks import Ends
from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.conductances import Drawn, scale_of_cells, simulate_cells
from analogize.crossbar.held import HeldWeights
from analogize.crossbar.seeds import no_chip, outdated, region_seed
from analogize.crossbar.witness import IN_VALUES, Witness
from analogize.devices.cells import Reading
from analogize.devices.compensation import Rule, ratio, sums, viewed
from analogize.devices.custom import site_of
from analogize.devices.layout import Layout
from analogize.devices.random import Draws
from analogize.devices.reading import read_once
from analogize.model.one_pass import running_pass
from analogize.model.stored import StoredWeight
from analogize.product import Convolution, Product
from analogize.targets import spec
from analogize.targets.noise import CustomNoise, acts_on_devices

aten = torch.ops.aten
FRESH = Reading()


class WeightArray(HeldWeights):
    """One crossbar array holding one weight tensor, for one or several operators.

    Attributes:
        noise: the noise models, drawn in this order and added.
        conductance: how weights become conductances, or None.
        compensation: how the target corrects drift.
        place: where this array's draws lie in a larger one; ``fresh.arrange`` tells.
        is_two_sided: whether another product reads its cells from the other side.
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
        super().__init__(weight, product, target, name, folded)
        self.noise: tuple[spec.NoiseModel, ...] = target.noise
        size = target.array
        self.layout = None if size is None else Layout(product, self.shape, size.rows, size.cols)
        self.conductance, self.compensation = target.conductance, target.compensation
        self.keep_unsaved("chip", None)
        self.keep_unsaved("correction", None)
        self.origin: Drawn | ArrayData | None = None
        self.place: tuple[Any, int] | None = None
        self.is_two_sided = False
        self.witness: Witness | None = None

    @property
    def home(self) -> WeightArray:
        """The array whose cells it reads: itself, but for one that is read from its other side."""
        return self

    @property
    def is_silent(self) -> bool:
        """Whether no noise model ever deviates from the clean weights."""
        return all(noise.is_silent(model) for model in self.noise)

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
            return self.deviate(clean, self._ends(clean), generator, reading)
        parts = [
            self.deviate(digit, self._ends(digit), source, reading.of_digit(index))
            for index, digit in enumerate(self.digits(clean))
            for source in [_part(generator, f"digit {index}")]
        ]
        return torch.stack(parts)

    def _ends(self, clean: Tensor) -> Ends:
        return Ends(*self.span(), *scale_of_cells(self, clean))

    def deviate(
        self, clean: Tensor, ends: Ends, generator: noise.Source, reading: Reading
    ) -> Tensor:
        """What one plane of cells holds after one draw of every noise model, in array units.

        Args:
            clean: the intended weights, or one digit of them; all, or a block (blocks.py).
            ends: the range and the cells' scale beside them.
            generator: of noise on weights.
            reading: of devices.
        """
        total, (low, high, full, factor) = clean, ends
        if any(acts_on_devices(model) and not noise.is_silent(model) for model in self.noise):
            total = simulate_cells(self, clean, full, factor, reading)
        for index, model in enumerate(self.noise):
            source = _part(generator, f"noise {index}") if index else generator
            site = None
            if isinstance(model, CustomNoise):
                site = site_of(model, self.name, self.conductance, reading)
            deviation = noise.draw(model, clean, low, high, source, site)
            if deviation is not None:
                total = deviation.add_(total)
        return total

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

        The draws are those of the region ``name``; by default the array's own. See ``hold``. What
        is drawn is computed on the CPU too, because devices differ in the last bit of a power or a
        sum, and a seed is the same chip on each.

        Raises:
            ChipError: the time is outside the range of a noise model.
        """
        self.settle(weight)
        self.erase()  # its memory is the next one's
        if is_elsewhere(weight):
            here = self.on_cpu()
            how = seed, drift_time, compensation, cycle, name, conditions
            here.program(weight.detach().cpu(), *how)
            self.take(here, weight.device)
            return
        wanted = self.compensation if compensation is None else compensation
        drifts = drift_time > 0 and self.conductance is not None
        rule: Rule | None = wanted if wanted != "none" and drifts else None
        before = None
        if rule is not None:
            first = self.draw(weight, seed, 0.0, cycle, name)
            before = self._sums(first, self._reading(seed, 0.0, cycle, name, None), rule)
            del first
        chip = self.draw(weight, seed, drift_time, cycle, name, conditions)
        reading = self._reading(seed, drift_time, cycle, name, conditions)
        correction = None
        if rule is not None and before is not None:
            correction = viewed(ratio(before, self._sums(chip, reading, rule)), self.product)
        self.hold(chip, correction, Drawn(reading, self.noise))

    def origin_of(self, seed: int, name: str | None = None) -> Drawn:
        """What ``program(weight, seed, name=name)`` would leave as the chip's origin."""
        return Drawn(self._reading(seed, 0.0, 0, name, None), self.noise)

    @torch.no_grad()
    def _sums(self, chip: Tensor, reading: Reading, rule: Rule) -> Tensor:
        """What a compensation compares, of the weights as one reading of every row finds them."""
        at = f"compensation cycle {reading.cycle} at {reading.time!r}"
        turned = isinstance(self.product, Convolution) and self.product.transposed
        if rule in ("global", "column") and not turned and blocks.is_large(self.shape):
            columns = blocks.sums(self, chip, reading, at)
            return columns.sum() if rule == "global" else columns
        (low, high), full = self.span(), self.full
        read = read_once(self.noise, chip, high - low, self.conductance, full, reading.draws, at)
        return sums(self.whole(read), self.product, rule, self.layout)

    def hold(
        self, chip: Tensor, correction: Tensor | None, origin: Drawn | ArrayData | None
    ) -> None:
        """Keep ``chip``; its ``witness`` is to be set then."""
        # Kernels add up in another order where weights lie otherwise in memory.
        self.keep_unsaved("chip", chip.contiguous())
        self.keep_unsaved("correction", correction)
        self.origin, self.witness = origin, None

    def take(self, other: WeightArray, device: torch.device) -> None:
        """Keep the chip of ``other``, a copy of this array, on ``device``."""
        assert other.chip is not None, "it was programmed just now"
        correction = None if other.correction is None else other.correction.to(device)
        self.hold(other.chip.to(device), correction, other.origin)

    def on_cpu(self) -> Self:
        """A copy on the CPU, without a chip; what is no tensor belongs to both."""
        twin = copy.copy(self)
        for name in ("_buffers", "_parameters", "_non_persistent_buffers_set"):
            object.__setattr__(twin, name, copy.copy(getattr(self, name)))
        twin.erase()
        for name, buffer in twin._buffers.items():
            twin._buffers[name] = None if buffer is None else buffer.cpu()
        for name, parameter in twin._parameters.items():
            assert parameter is not None, "a range that is learned is there"
            twin._parameters[name] = nn.Parameter(parameter.detach().cpu())
        twin.refresh()
        return twin

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
        if is_elsewhere(weight):
            how = seed, drift_time, cycle, name, conditions
            return self.on_cpu().draw(weight.detach().cpu(), *how).to(weight.device)
        name = self.name if name is None else name
        # Another cycle is another draw; the first keeps the seed that it always had.
        again = f" cycle {cycle}" if cycle else ""
        generator = torch.Generator("cpu").manual_seed(region_seed(seed, name + again))
        reading = self._reading(seed, drift_time, cycle, name, conditions)
        if blocks.is_in_blocks(self, weight):
            return blocks.draw(self, weight.detach(), generator, reading)
        clean = self.clean(weight.detach())
        chip = self.noisy(clean, generator, reading)
        return chip.clone() if chip is clean else chip.to(weight.dtype)

    def programmed(self, weight: Tensor, stored: StoredWeight, inputs: int | None = None) -> Tensor:
        """The chip's weights in array units.

        Args:
            weight: the weight as it is now.
            stored: where it comes from.
            inputs: how many inputs the product multiplies by it; None for many.

        Raises:
            ChipError: nothing was programmed, or the weights have changed since.
        """
        chip, witness = self.chip, self.witness
        if chip is None:
            raise no_chip(self.name)
        if witness is not None and not torch.compiler.is_compiling():
            this = running_pass()
            if this is None or not witness.is_seen(this.kept.get(self), weight, stored):
                later: list[Tensor] | None = None if this is None or this.is_over else []
                difference = witness.difference(weight, stored, inputs, later)
                if difference is not None:
                    raise outdated(self.name, difference)
                if this is not None and later:
                    fail = partial(witness.doubted, outdated(self.name, IN_VALUES))
                    this.claims += [(same, fail) for same in later]
                if this is not None and not this.is_over:
                    this.kept[self] = witness.seen
        return chip

    def erase(self) -> None:
        """Forget the programmed chip."""
        self.keep_unsaved("chip", None)
        self.keep_unsaved("correction", None)
        self.origin = self.witness = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.erase()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.chip
        super()._apply(fn, recurse)
        if before is not None and self.chip is not None and self.witness is not None:
            self.witness.cast(before.dtype, self.chip.dtype)
        return self


def is_elsewhere(weight: Tensor) -> bool:
    """Whether ``weight`` lies on an accelerator."""
    return weight.device.type not in ("cpu", "meta")


def _part(source: noise.Source, name: str) -> noise.Source:
    """Draws of their own for a part; a generator goes on where it is."""
    return source.part(name) if isinstance(source, Draws) else source
