"""What goes wrong while devices are programmed: pure functions on conductances.

Standard normal or uniform draws are arguments, so that every function is deterministic and a chip
can be drawn again. Conductances and spreads share one unit, microsiemens unless a target says
otherwise; no conductance becomes negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


def programming_noise(target: Tensor, sigma: Tensor, normal: Tensor) -> Tensor:
    """G = max(0, G_target + sigma(G_target) N(0, 1)).

    The form in which iterative programming is characterised (Joshi et al., Nature Communications
    11:2473, 2020, and the fits cited in the built-in targets). Valid where sigma was measured.

    Args:
        target: target conductances, any shape.
        sigma: the standard deviation at each of them.
        normal: standard normal values of the same shape.
    """
    return torch.addcmul(target, sigma, normal).clamp_(min=0)


@dataclass(frozen=True)
class Miss:
    """By how much devices miss their target: normal, with a spread and perhaps a mean.

    Attributes:
        sigma: the standard deviation of each device.
        bias: its mean, or None for zero.
    """

    sigma: Tensor
    bias: Tensor | None = None

    def scaled(self, factor: float) -> Miss:
        """Spread and mean times ``factor``."""
        if factor == 1:
            return self
        return Miss(self.sigma * factor, None if self.bias is None else self.bias * factor)

    def towards(self, other: Miss, share: float) -> Miss:
        """Between this one (share 0) and ``other`` (share 1)."""
        ends = [each.bias for each in (self, other)]
        bias = None
        if any(end is not None for end in ends):
            low, high = (torch.zeros_like(self.sigma) if end is None else end for end in ends)
            bias = torch.lerp(low, high, share)
        return Miss(torch.lerp(self.sigma, other.sigma, share), bias)

    def applied(self, conductance: Tensor, normal: Tensor) -> Tensor:
        """max(0, conductance + bias + sigma normal)."""
        aim = conductance if self.bias is None else conductance + self.bias
        return programming_noise(aim, self.sigma, normal)


def between(
    times: Sequence[float], time: float, scale: Literal["logarithmic", "linear"] = "logarithmic"
) -> tuple[int, int, float]:
    """Where ``time`` lies among the times of measurements: the two indices, and the share between.

    Before the first measurement it is the first one. ``logarithmic`` is linear in ln(1 s + t),
    because relaxation slows down in proportion to time.

    Args:
        times: increasing, in seconds.
        time: seconds after programming.
        scale: what is divided linearly.

    Raises:
        ValueError: a time after the last measurement.
    """
    if time > times[-1]:
        raise ValueError(f"was measured up to {times[-1]:g} s after programming, not {time:g} s")
    if time <= times[0]:
        return 0, 0, 0.0
    after = next(index for index, known in enumerate(times) if known >= time)
    ends = times[after - 1], times[after], time
    low, high, at = map(math.log1p, ends) if scale == "logarithmic" else ends
    return (after - 1, after, (at - low) / (high - low)) if time < ends[1] else (after, after, 0.0)


def variation(
    conductance: Tensor, std: float, normal: Tensor, kind: Literal["gaussian", "lognormal"]
) -> Tensor:
    """Multiply every conductance by a random factor of mean 1.

    ``gaussian``: 1 + std N(0, 1), cut off at 0 (std <= 0.3 keeps that below 0.05 % of devices).
    ``lognormal``: exp(std N(0, 1) - std^2 / 2); its standard deviation is sqrt(exp(std^2) - 1).

    Args:
        conductance: any shape.
        std: of the factor, or of its logarithm.
        normal: standard normal values of the same shape.
        kind: the factor's distribution.
    """
    if kind == "lognormal":
        return (std * normal).sub_(std**2 / 2).exp_().mul_(conductance)
    return (std * normal).add_(1).clamp_(min=0).mul_(conductance)


def stick(
    conductance: Tensor, at_min: float, at_max: float, uniform: Tensor, g_min: float, g_max: float
) -> Tensor:
    """Devices that cannot be programmed: a share stays at ``g_min``, another at ``g_max``.

    Args:
        conductance: any shape.
        at_min: probability of being stuck at ``g_min``.
        at_max: probability of being stuck at ``g_max``; both add up to 1 at most.
        uniform: uniform values in [0, 1) of the same shape; they say which devices are stuck.
        g_min: the lowest conductance.
        g_max: the highest.
    """
    stuck_low = torch.where(uniform < at_min, g_min, conductance)
    return torch.where(uniform >= 1 - at_max, g_max, stuck_low)
