"""The analog operator, a module with three stages: DAC -> array -> ADC.

The module chooses the weights of a forward pass (noise mode, chip) and checks its state; the
arithmetic is in arithmetic.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from analogize.crossbar.arithmetic import Stages
from analogize.crossbar.array import WeightArray
from analogize.crossbar.compiled import enter, proven
from analogize.crossbar.computing import compute
from analogize.crossbar.converter import Converter
from analogize.crossbar.correction import corrected, of_tiles
from analogize.crossbar.fresh import fresh_weights
from analogize.crossbar.in_place import buffers_of, require_in_place
from analogize.crossbar.learned import Ranges
from analogize.crossbar.periphery import has_signals, signals_of
from analogize.crossbar.precision import autocast, dtypes
from analogize.crossbar.region import Region
from analogize.crossbar.side import DigitalSide, make_side
from analogize.crossbar.signature import as_tensor, sign
from analogize.crossbar.stages import derive, in_units_of_range, with_noise
from analogize.crossbar.tiled import Tiles, cut
from analogize.crossbar.waiting import of_zeros, require_met
from analogize.errors import ChipError
from analogize.model import transforms
from analogize.model.expression import Expression
from analogize.model.parts import by_part
from analogize.model.running import standing_for
from analogize.model.stored import StoredWeight
from analogize.product import Convolution, Product, output_channels
from analogize.targets.spec import Target

NoiseMode = Literal["off", "fresh", "programmed"]


class AnalogOp(nn.Module):
    """One product with stored weights, as an analog array computes it; the bias stays outside.

    The weight is an argument of the call, not a member: it keeps its place and its name in the
    model, tied weights stay tied, and computed weights work as they are.

    Attributes:
        dac: input converter.
        array: the weights' array; operators that share a weight share it.
        adc: output converter.
        tiles: the parts of the product that are converted one by one, or None if it is whole.
        mode: ``"off"``, ``"fresh"`` or ``"programmed"``, or None for the default: fresh noise in
            training, and in evaluation until a chip is programmed.
        region: what this operator stands for.
        number: under which compiled code finds it.
        stored: its weight, by the modules that own what it is made of; ``bind`` tells.
        observer: while calibrating, receives (input, output) of the digital product.
        is_calibrated: whether every converter that has bits has its range.
        laid: the buffers that the arithmetic was derived from.
        digest: of what the target says of this region; ``target_digest`` in the state dict.
        side: digital correction of the output, or None; ``make_side`` makes one.
    """

    side: DigitalSide | None
    digest: str
    target_digest: Tensor

    def __init__(
        self, array: WeightArray, product: Product, target: Target, region: Region
    ) -> None:
        super().__init__()
        self.stored: StoredWeight
        self.number = enter(self)
        self.product = product
        self.region = region
        channels = output_channels(product, array.shape)
        self.array = array
        device = array.range.device
        self.dac = Converter(target.dac, channels, device)
        self.adc = Converter(target.adc, channels, device)
        self.tile_size, self.cost = target.array, target.cost
        self.tiles = cut(product, array.shape, target)
        self.mode: NoiseMode | None = None
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        self._observed: tuple[Tensor, Tiles] | None = None
        self.register_module("side", None)
        sign(self)
        self.register_load_state_dict_pre_hook(make_side)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.refresh()

    def bind(self, root: nn.Module, expression: Expression | None = None) -> Self:
        """Hold on to the owners of the weight, which ``region.weight`` names within ``root``.

        Args:
            root: the rewritten model.
            expression: how the weight is computed, or None where it is a parameter.
        """
        self.stored = StoredWeight(root, self.region.weight, expression)
        return self

    def refresh(self) -> None:
        """Derive the fixed parts of the arithmetic; needed whenever a range was changed."""
        self.laid = buffers_of(self)
        dac, adc, array = self.dac, self.adc, self.array
        self._stages = derive(dac, array, adc, self.product, self.tile_size)
        self._noisy_stages = with_noise(self._stages, array)
        self._has_signals = has_signals(array)

        # Attributes, not properties: every forward pass asks.
        needs_range = (dac,) if adc.covers_all else (dac, adc)
        is_pending = array.is_pending
        has_ranges = all(c.bits is None or c.scale is not None for c in needs_range)
        self.is_calibrated = has_ranges and not is_pending
        self._learns = dac.learning is not None or adc.learning is not None
        converts = dac.scale is not None or self._stages.y_scale is not None
        in_codes = dac.scale is not None or array.output_scale is not None
        self._codes = in_codes, max(dac.bits or 0, array.bits or 0)
        self._is_bare = self.is_calibrated and not converts and not array.clips

    def follow(self, *, wholly: bool = False) -> None:
        """Take learned ranges as an optimizer's step left them, confined; does nothing otherwise.

        Args:
            wholly: whether to look at the ranges even if torch knows of no write to them.
        """
        if self._learns:
            moved = [c.confine(wholly) for c in (self.dac, self.adc)]
            if any(moved):
                self.refresh()

    @property
    def _learned(self) -> Ranges:
        """The ranges that a training pass gives gradients to."""
        if not self._learns:
            return Ranges()
        dac, adc = (c.range if c.learning is not None else None for c in (self.dac, self.adc))
        return Ranges(dac, adc)

    @property
    def is_exact(self) -> bool:
        """Whether no stage changes anything: then the operator is the digital product itself."""
        return self._is_bare and self.array.is_silent

    @property
    def is_digital(self) -> bool:
        """Whether this call is the digital operator as a whole, so that its own code may run."""
        exact = self.observer is None and self.is_exact and self.side is None
        return self.observer is _ignore or exact

    @property
    def draws_noise(self) -> bool:
        """Whether its next call draws weights."""
        draws = self.observer is None and self._effective_mode() == "fresh"
        return draws and not self.array.is_silent

    @property
    def uses_chip(self) -> bool:
        """Whether its next call multiplies by a programmed chip."""
        return self._effective_mode() == "programmed"

    def digitally(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``function``, the digital operator, on behalf of this one."""
        if self.observer is None:
            return function(*args, **kwargs)
        with standing_for(self.region):
            return function(*args, **kwargs)

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        output_padding: int | tuple[int, ...] | None = None,
        through: Callable[[Tensor], Tensor] | None = None,
        product: Product | None = None,
    ) -> Tensor:
        """The array's output before the bias, in the model's own units.

        Shapes: as the digital operator's, without the bias. A transposed convolution called with
        an ``output_size`` passes the ``output_padding`` that makes it. Where ``weight`` is a part
        of the array, chosen at run time, ``through`` takes the same part of a chip. A ``product``
        that reads the same array in another way, with another stride say, replaces its own.

        Raises:
            CalibrationError: a converter has bits and no range.
            ChipError: mode ``"programmed"`` and no valid chip.
        """
        product = self.product if product is None else product
        if output_padding is not None and isinstance(product, Convolution):
            product = product.with_output_padding(output_padding)
        tiles = self.tiles
        if tiles is not None and product is not self.product:
            tiles = tiles.with_product(product)
        if self.observer is not None:
            x, weight = autocast(x, weight)
            y: Tensor = self.digitally(product.forward, x, weight)
            self._observed = None if tiles is None else (weight, tiles)
            self.observer(x, y)
            self._observed = None
            return y
        if not torch.compiler.is_compiling():
            require_in_place(self, x, weight)
            self.follow()
        if not self.is_calibrated:
            self._settle(weight)
            if not self.is_calibrated and (self.dac.waits or self.adc.waits):
                return of_zeros(self, product, x, weight)
        if self.is_exact:
            y = product.forward(*autocast(x, weight))
            return y if self.side is None else self.side(y, x)
        mode = self._effective_mode()
        used = self._weights(x, weight, mode, through)
        if tiles is None:
            used = self.array.whole(used)
        stages = self._stages_in(mode)
        # A chip's converters are what they are.
        ranges = self._learned if mode != "programmed" else Ranges()
        kinds = dtypes(x, *self._codes)
        y = compute(self, tiles or product, x, weight, ranges, used, stages, kinds)
        if mode == "programmed":
            y = proven(self, corrected(self, y), weight if through is None else None)
        return y if self.side is None else self.side(y, x)

    def _stages_in(self, mode: NoiseMode) -> Stages:
        if mode == "off":
            return self._stages
        stages = self._noisy_stages
        if mode == "programmed" and self.tiles is not None:
            stages = stages._replace(corrections=of_tiles(self.array.correction, self.product))
        if not self._has_signals:
            return stages
        with transforms.disabled():
            return stages._replace(signals=signals_of(self, mode == "programmed"))

    def _effective_mode(self) -> NoiseMode:
        if self.mode is not None:
            return self.mode
        return "fresh" if self.training or self.array.chip is None else "programmed"

    def _weights(
        self,
        x: Tensor,
        weight: Tensor,
        mode: NoiseMode,
        through: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """The weights of this forward pass in array units."""
        if mode == "programmed":
            now = weight if through is None else self.stored.value()
            if transforms.are_active() and transforms.plain(now) is None:
                raise ChipError(
                    f"region '{self.region.name}' has a programmed chip, which belongs to one set "
                    "of weights, and vmap maps over several; erase(model) first"
                )
            array = self.array
            groups, rows, _ = self.product.matrix(array.shape)
            inputs = x.numel() // max(1, groups * rows)
            chip = transforms.outside(lambda w: array.programmed(w, self.stored, inputs), now)
            return chip if through is None else through(chip)
        with torch.no_grad():
            if mode == "off":
                clean = self.array.clean
                return transforms.outside(lambda w: self.array.digits(clean(w.detach())), weight)
            whole = weight if through is None else self._whole(weight)
            used = weight if whole is None else whole
            drawn = transforms.outside(lambda w: fresh_weights(self, w), used)
            return drawn if through is None or whole is None else through(drawn)

    def _whole(self, part: Tensor) -> Tensor | None:
        """The weight that ``part`` was chosen from, or None where it is not to be had."""
        whole = self.stored.value()
        return whole if whole.shape == self.array.shape and whole.device == part.device else None

    def conversions(self, x: Tensor, y: Tensor) -> Tensor:
        """What the ADC converts, in the units of its range, for an observer that was given (x, y).

        With tiles these are the partial sums, stacked along a first dimension.
        """
        if self._observed is not None:
            weight, tiles = self._observed
            y = torch.stack(
                [
                    piece.product.forward(piece.inputs(x), piece.weights(weight))
                    for piece in tiles.pieces
                ]
            )
        return in_units_of_range(self._stages, x, y)

    def _settle(self, weight: Tensor) -> None:
        """Find the array's range if it waited for weights; refuse to guess any other."""
        if self.array.range.is_meta and weight.is_meta:
            return
        self.array.settle(weight)
        self.refresh()
        if self.is_calibrated:
            return
        require_met(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Also after to_empty(), which keeps no values.
        self.target_digest = as_tensor(self.digest, self.target_digest.device)
        self.refresh()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.number = enter(self)

    def extra_repr(self) -> str:
        """Operator and mode, for ``print(model)``."""
        return f"{self.region.operator}, noise {self.mode or 'default'}"


def operators(model: nn.Module) -> tuple[AnalogOp, ...]:
    """Every analog operator of ``model`` once: part after part, each in the order of its graph."""
    groups = by_part(model, AnalogOp).values()
    return tuple(op for ops in groups for op in sorted(ops, key=lambda op: op.region.index))


@contextmanager
def bypassed(
    model: nn.Module, observe: Callable[[AnalogOp, Tensor, Tensor], None] | None = None
) -> Iterator[None]:
    """Run the digital products instead of the analog ones, and let ``observe`` see (op, x, y)."""

    def watcher(op: AnalogOp) -> Callable[[Tensor, Tensor], None]:
        return _ignore if observe is None else lambda x, y: observe(op, x, y)

    ops = operators(model)
    former = [op.observer for op in ops]
    try:
        for op in ops:
            op.observer = watcher(op)
        yield
    finally:
        for op, before in zip(ops, former, strict=True):
            op.observer = before


def _ignore(x: Tensor, y: Tensor) -> None:
    """The observer of a model that is bypassed, but not observed."""


def _refresh(op: AnalogOp, incompatible_keys: object) -> None:
    op.refresh()
