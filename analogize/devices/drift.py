"""What time does to programmed conductances: drift and 1/f read noise, as pure functions.

``time`` counts in seconds from the first reading, ``t0`` after programming, at which the programmed
conductance was defined: at time 0 nothing has drifted yet. (Published formulas count from
programming, t = t0 + time.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def power_law(conductance: Tensor, nu: Tensor, time: float, t0: float) -> Tensor:
    """G(t) = G_prog ((t0 + time) / t0)^-nu.

    Structural relaxation of phase-change memory: Le Gallo et al., Advanced Electronic Materials
    4:1700627 (2018); Joshi et al., Nature Communications 11:2473 (2020). The logarithm's slope nu
    was measured from seconds to about a year; the law has no end of its own.

    Args:
        conductance: G_prog, any shape.
        nu: each device's drift exponent, of the same shape.
        time: seconds since the first reading, at least 0.
        t0: seconds from programming to the first reading, above 0.

    Raises:
        ValueError: a negative time, or t0 not above 0.
    """
    _check("time", time, 0)
    if t0 <= 0:
        raise ValueError(f"t0 is {t0:g} s; it must be above 0")
    return (nu * -math.log1p(time / t0)).exp_().mul_(conductance)


def drift_exponents(mean: Tensor, std: Tensor, normal: Tensor) -> Tensor:
    """The drift exponent of every device, |mean + std N(0, 1)|.

    The absolute value keeps a device from growing more conductive, as in the fits that the
    built-in targets cite (aihwkit, inference/noise/pcm.py); where std is at most half the mean it
    changes less than 2.3 % of devices.

    Args:
        mean: mean exponent at each device's target conductance.
        std: standard deviation from device to device, of the same shape.
        normal: standard normal values of the same shape.
    """
    return torch.addcmul(mean, std, normal).abs_()


def logarithmic(
    conductance: Tensor,
    mean_slope: float,
    std_intercept: float,
    std_slope: float,
    normal: Tensor,
    time: float,
) -> Tensor:
    """G(t) = max(0, G + mean_slope ln t + (std_intercept + std_slope ln t) N(0, 1)).

    Conductance-independent drift of CMO/HfOx memory (aihwkit, inference/noise/reram.py), with t in
    seconds after programming. The fit begins at t = 1 s; before, the conductance is returned as it
    is.

    Args:
        conductance: any shape.
        mean_slope: in the conductance's unit per factor e of time.
        std_intercept: standard deviation at 1 s.
        std_slope: its growth per factor e of time.
        normal: standard normal values of the same shape.
        time: seconds after programming, at least 0.

    Raises:
        ValueError: a negative time.
    """
    _check("time", time, 0)
    if time < 1:
        return conductance
    log = math.log(time)
    return (conductance + mean_slope * log + (std_intercept + std_slope * log) * normal).clamp(
        min=0
    )


def one_over_f_ratio(time: float, t_read: float) -> float:
    """sqrt(ln((t + t_read) / (2 t_read))), what 1/f noise accumulates until t.

    The integral of a 1/f spectrum from 1 / t to the bandwidth of a reading (Nandakumar et al.,
    ICECS 2019; aihwkit, inference/noise/pcm.py).

    Args:
        time: seconds since programming, at least ``t_read``, where the noise is 0.
        t_read: duration of a reading in seconds, above 0.

    Raises:
        ValueError: a time before the end of the first reading.
    """
    _check("time since programming", time, t_read)
    return math.sqrt(math.log((time + t_read) / (2 * t_read)))


def one_over_f(conductance: Tensor, q: Tensor, ratio: float, normal: Tensor) -> Tensor:
    """G = max(0, G_drift (1 + Q ratio N(0, 1))).

    Args:
        conductance: drifted conductances, any shape.
        q: noise strength of each device.
        ratio: ``one_over_f_ratio`` at the time of reading.
        normal: standard normal values of the same shape.
    """
    return (q * normal).mul_(ratio).add_(1).mul_(conductance).clamp_(min=0)


def _check(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {value:g} s; it must be finite and at least {least:g} s")
