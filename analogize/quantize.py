"""Ranges, uniform grids and codes: pure functions on tensors.

Codes here are *zero-centred*: ``clamp(round(x / s) + z, 0, 2^b - 1) - z``, computed as
``clamp(round(x / s), -z, 2^b - 1 - z)``, which is the same integer and one pass less. Rounding is
half-to-even after a true division, which is what ONNX's QuantizeLinear does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GridKind = Literal["affine", "symmetric"]
Bound = float | Tensor


@dataclass(frozen=True)
class Grid:
    """A uniform grid: the values ``scale * c`` for the integers ``low <= c <= high``.

    Attributes:
        scale: step between neighbouring values, in the units of what is quantized; a 0-d tensor,
            or one value a channel, float32.
        low: smallest zero-centred code, a number, or a tensor shaped like ``scale``.
        high: largest zero-centred code, likewise.
    """

    scale: Tensor
    low: Bound
    high: Bound

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value on the grid."""
        return self.scale * self.low, self.scale * self.high


def make_grid(minimum: Tensor, maximum: Tensor, bits: int, kind: GridKind = "affine") -> Grid:
    """Lay a uniform grid of ``bits`` bits over ``[minimum, maximum]``.

    The grid always holds 0 at an integer code, because a convolution pads with it: an affine range
    that excludes 0 is widened to it, and the zero point is rounded, which shifts both ends by at
    most half a step and leaves the width as it is. A symmetric grid spans ``[-m, m]`` with
    ``m = max(|minimum|, |maximum|)`` and ``2^bits - 1`` levels.

    Args:
        minimum: lower end, 0-d or one value a channel.
        maximum: upper end, of the same shape; above ``minimum`` everywhere.
        bits: resolution, 1 to 16 (2 to 16 for a symmetric grid).
        kind: ``"affine"`` or ``"symmetric"``.
    """
    low_end, high_end = minimum.double(), maximum.double()
    if kind == "symmetric":
        steps = 2 ** (bits - 1) - 1
        scale = torch.maximum(low_end.abs(), high_end.abs()) / steps
        return Grid(scale.float(), -float(steps), float(steps))
    steps = 2**bits - 1
    low_end, high_end = low_end.clamp(max=0), high_end.clamp(min=0)
    scale = (high_end - low_end) / steps
    low = (low_end / scale).round().clamp(-steps, 0)
    if low.ndim == 0:
        return Grid(scale.float(), float(low), float(low) + steps)
    return Grid(scale.float(), low.float(), (low + steps).float())


def to_codes(values: Tensor, grid: Grid) -> Tensor:
    """Zero-centred integer codes of ``values``, kept in their floating dtype.

    Shapes: any ``values`` that broadcasts with ``grid.scale``. Not differentiable: the
    straight-through gradient belongs to the operator that calls it.
    """
    return clamp_((values / grid.scale).round_(), grid.low, grid.high)


def clamp(values: Tensor, low: Bound, high: Bound) -> Tensor:
    """``values`` confined to [low, high]; the bounds are both numbers or both tensors."""
    return torch.clamp(values, low, high)  # type: ignore[arg-type]


def clamp_(values: Tensor, low: Bound, high: Bound) -> Tensor:
    """``clamp`` in place."""
    return torch.clamp_(values, low, high)  # type: ignore[arg-type]


def fake_quantize(values: Tensor, grid: Grid) -> Tensor:
    """Round ``values`` to the nearest point of ``grid``, in their own units."""
    return to_codes(values, grid) * grid.scale


def percentiles(values: Tensor, low: float, high: float) -> Tensor:
    """The ``low`` and ``high`` percentiles of all elements, linearly interpolated; shape (2,).

    Sorts once, because ``torch.quantile`` refuses more than 2^24 elements.
    """
    ordered = values.detach().flatten().float().sort().values
    return torch.stack([_at(ordered, low), _at(ordered, high)])


def _at(ordered: Tensor, percent: float) -> Tensor:
    position = percent / 100 * (ordered.numel() - 1)
    below = int(position)
    above = min(below + 1, ordered.numel() - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
