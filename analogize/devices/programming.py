"""What goes wrong while devices are programmed: pure functions on conductances.

Standard normal or uniform draws are arguments, so that every function is deterministic and a chip
can be drawn again. Conductances and spreads share one unit, microsiemens unless a target says
otherwise; no conductance becomes negative.
"""

from __future__ import annotations

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


def interpolated_sigma(sigmas: list[Tensor], times: list[float], time: float) -> Tensor:
    """The spread at ``time`` between spreads measured at ``times``.

    Linear in ln(1 s + t), because relaxation slows down in proportion to time. Before the first
    measurement its spread holds.

    Args:
        sigmas: the spread at each measured time, all of one shape.
        times: increasing, in seconds.
        time: seconds after programming.

    Raises:
        ValueError: a time after the last measurement.
    """
    if time > times[-1]:
        raise ValueError(f"was measured up to {times[-1]:g} s after programming, not {time:g} s")
    if time <= times[0]:
        return sigmas[0]
    after = next(index for index, known in enumerate(times) if known >= time)
    low, high, at = (
        float(torch.tensor(t, dtype=torch.float64).log1p())
        for t in (times[after - 1], times[after], time)
    )
    return torch.lerp(sigmas[after - 1], sigmas[after], (at - low) / (high - low))


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
