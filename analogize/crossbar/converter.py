"""Fixed ranges as module state, and the DAC and ADC that live on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from analogize.crossbar.learned import Learning
from analogize.errors import CalibrationError
from analogize.quantize import Bound, Grid, make_grid, to_codes
from analogize.targets import spec

# Narrower ranges have steps, and products of steps, that float32 cannot hold.
SMALLEST = 1e-30


class FixedRange(nn.Module):
    """A range that is fixed once and kept as a float32 buffer, and the grid that lies on it.

    Half-precision moves (``model.half()``) leave the range in float32: a scale of 8 significant
    bits would shift every code. A ``state_dict`` without the range loads, so that the original
    model's loads into the rewritten one; loading.py says what becomes of the range.

    Attributes:
        range: shape (2,), or (2, channels): minimum and maximum; NaN while unknown.
        bits: resolution, or None for a stage that does not quantize.

    A range that decides nothing is not saved (``matters`` is False).
    """

    range: Tensor
    scale: Tensor | None
    low: Bound
    high: Bound

    def __init__(self, ends: Tensor, bits: int | None, grid: str, matters: bool) -> None:
        super().__init__()
        self.bits = bits
        self.kind: Any = grid
        self.register_buffer("range", ends.float(), persistent=matters)
        self.keep_unsaved("scale", None)
        self.low = self.high = 0.0
        self.refresh()

    @property
    def is_known(self) -> bool:
        """Whether the range was calibrated or fixed."""
        return bool(torch.isfinite(self.range).all())

    @property
    def grid(self) -> Grid | None:
        """The grid on the range, or None without bits or range."""
        return None if self.scale is None else Grid(self.scale, self.low, self.high)

    def refresh(self) -> None:
        """Lay the grid anew; needed whenever the range was changed."""
        self.keep_unsaved("scale", None)
        if self.bits is None or self.range.is_meta or not self.is_known:
            return
        low, high = self.range.detach()
        grid = make_grid(low, high, self.bits, self.kind)
        self.keep_unsaved("scale", grid.scale)
        self.low, self.high = grid.low, grid.high

    def keep_unsaved(self, name: str, value: Tensor | None) -> None:
        """Have ``value`` as a buffer that is never saved, or none of that name.

        A buffer that is None is not saved either way, and accelerate, which moves all that are
        never saved, expects tensors.
        """
        self.register_buffer(name, value, persistent=value is None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A parameter stays the same object, and its values are replaced.
        before, kept = self.range, self.range.detach()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept.is_meta and not self.range.is_meta:
            self._set(torch.full_like(self.range, torch.nan, dtype=torch.float32))
        elif not self.range.is_meta and (self.range is not before or self._is_parameter):
            # Also after to_empty(), which keeps no values.
            self._set(kept.to(self.range.device))
        self.refresh()
        return self

    @property
    def _is_parameter(self) -> bool:
        return "range" in self._parameters

    def _set(self, ends: Tensor) -> None:
        """Let the range be ``ends``, of any device; a parameter stays the one that it is."""
        if self._is_parameter:
            self.range.data = ends
        else:
            self.range = ends

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if "range" not in self._non_persistent_buffers_set:
            state_dict.setdefault(prefix + "range", self.range)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.refresh()


class Converter(FixedRange):
    """A DAC or an ADC: a uniform quantizer with a fixed range, or nothing where bits is None.

    Paper: inputs are quantized before the noisy product and its results after it, before the bias
    is added (section 5.1); percentiles of a calibration set fix the range (section 5.2). The range
    of a DAC that finds one for every vector is that of a vector whose values span 1. [0, 0] is what
    data that are all zero give: the converter waits for others. A range that is learned is a
    parameter; ``learned.py`` has its gradient.

    Attributes:
        settings: what the target says.
        learning: how the range is learned, or None.
        quality: power of the calibration data over that of what rounding and clipping change, in
            decibels; None before calibration, and in a copy loaded from a file.
        better: the quality that ranges of other kinds would give, where this one's is low.
    """

    def __init__(self, settings: spec.Converter, channels: int, device: torch.device) -> None:
        self.settings = settings
        # A range that the target fixes has values, which it would lose on the meta device.
        place = torch.device("cpu") if device.type == "meta" else device
        ends = torch.tensor(_ends(settings), device=place)
        if settings.granularity == "channel":
            ends = ends.unsqueeze(1).expand(2, channels).clone()
        self.learning: Learning | None = None
        self._laid: tuple[Tensor, int] | None = None
        super().__init__(ends, settings.bits, settings.grid, settings.bits is not None)
        if settings.bits is not None and isinstance(settings.range, spec.LearnedRange):
            symmetric = settings.grid == "symmetric"
            steps = 2.0**settings.bits - (2 if symmetric else 1)
            self.learning = Learning(settings.range, symmetric, steps)
            ends = self.range
            del self.range
            self.register_parameter("range", nn.Parameter(ends))
        self.quality: float | None = None
        self.better: dict[str, float] = {}

    @property
    def wants_calibration(self) -> bool:
        """Whether the range comes from data."""
        return self.bits is not None and self.rule is not None

    @property
    def rule(self) -> spec.CalibratedRange | None:
        """What makes a range of calibration data; None where it comes from elsewhere."""
        rule = self.settings.range
        rule = rule.start if isinstance(rule, spec.LearnedRange) else rule
        return rule if isinstance(rule, spec.CalibratedRange) else None

    @property
    def covers_all(self) -> bool:
        """Whether it converts every sum that a tile can produce, over a range without data."""
        return self.bits is not None and isinstance(self.settings.range, spec.FullRange)

    @property
    def bound(self) -> float | None:
        """The largest sum in full-scale inputs times full-scale weights, if that is the range."""
        rule = self.settings.range
        return rule.bound if self.bits is not None and isinstance(rule, spec.BoundRange) else None

    @property
    def follows_vectors(self) -> bool:
        """Whether every vector has a range of its own."""
        return self.bits is not None and isinstance(self.settings.range, spec.VectorRange)

    @property
    def in_array_units(self) -> bool:
        """Whether all columns share the range as each counts: in steps of its own weights."""
        rule = self.settings.range
        return self.range.ndim == 1 and not isinstance(rule, spec.FixedRange | spec.FullRange)

    @property
    def is_known(self) -> bool:
        """Whether the range was calibrated or fixed, on more than zeros."""
        return super().is_known and not self.waits

    @property
    def waits(self) -> bool:
        """Whether it was calibrated, on nothing but zeros."""
        return self.bits is not None and not self.range.is_meta and not bool(self.range.any())

    def wait(self) -> None:
        """Note that calibration brought nothing but zeros here."""
        with torch.no_grad():
            self.range.zero_()
        self.quality, self.better = None, {}
        self.refresh()

    def calibrate(self, minimum: Tensor, maximum: Tensor) -> None:
        """Fix the range to ``[minimum, maximum]``: two 0-d tensors, or one value a channel each.

        Raises:
            CalibrationError: the range is empty or not finite.
        """
        ends = torch.stack([minimum, maximum]).float().to(self.range.device)
        wrong = ~(ends[1] - ends[0] > SMALLEST) | ~torch.isfinite(ends).all(0)
        if bool(wrong.any()):
            low, high = ends.reshape(2, -1)[:, wrong.flatten()][:, 0].tolist()
            raise CalibrationError(
                f"calibration found the range [{low:g}, {high:g}], which holds no two "
                "different finite values; calibrate with data that vary, or give the target a "
                "fixed range for this converter"
            )
        if self.learning is not None:
            ends = self._around_zero(ends)
        with torch.no_grad():
            self.range.copy_(ends)
        self.refresh()

    def refresh(self) -> None:
        """Lay the grid anew, and remember of a learned range where it lay."""
        super().refresh()
        if self.learning is not None and self.scale is not None:
            self._laid = self.range.detach().clone(), self.range._version

    @torch.no_grad()
    def confine(self, wholly: bool = False) -> bool:
        """Keep a learned range a range after an optimizer's step; returns whether it had moved.

        Its ends stay on their sides of zero, those of a symmetric range opposite, and no step
        brings one more than half the way to zero: a range that is proportional to its own steps
        would never come back from there.

        Args:
            wholly: whether to look even if torch knows of no write to it.
        """
        if self.learning is None or self._laid is None:
            return False
        laid, version = self._laid
        if self.range._version == version and not wholly:
            return False
        if not self.is_known:  # Asked last: it waits for an accelerator.
            return False
        (low, high), least = self._around_zero(self.range), self._around_zero(laid / 2)
        ends = torch.minimum(low, least[0]), torch.maximum(high, least[1])
        self.range.copy_(torch.stack(ends))
        self.refresh()
        return True

    def _around_zero(self, ends: Tensor) -> Tensor:
        """The range that the grid over ``ends`` has: symmetric, or with zero in it."""
        if self.learning is not None and self.learning.symmetric:
            half = ends.abs().amax(0)
            return torch.stack([-half, half])
        return torch.stack([ends[0].clamp(max=0), ends[1].clamp(min=0)])

    def forward(self, values: Tensor) -> Tensor:
        """Zero-centred codes of ``values``; ``values`` themselves without bits. Any shape."""
        grid = self.grid
        return values if grid is None else to_codes(values, grid)

    def extra_repr(self) -> str:
        """Bits and range, for ``print(model)``."""
        return "no bits" if self.bits is None else f"{self.bits} bits, {self.described}"

    @property
    def described(self) -> str:
        """The range in words and numbers; it has bits."""
        if self.follows_vectors:
            return "one range a vector"
        if self.covers_all:
            return "every sum"
        if self.waits:
            return "waits for data"
        if self.range.ndim > 1:
            return f"{self.range.shape[1]} channels"
        if not self.is_known:
            return "not calibrated"
        low, high = self.range.tolist()
        learned = "learned " if self.learning is not None else ""
        return learned + (f"±{high:.3g}" if low == -high else f"[{low:.3g}, {high:.3g}]")


def _ends(settings: spec.Converter) -> list[float]:
    match settings.range:
        case spec.FixedRange(min=low, max=high):
            return [low, high]
        case spec.VectorRange():
            return [-1.0 if settings.grid == "symmetric" else 0.0, 1.0]
    return [float("nan")] * 2
