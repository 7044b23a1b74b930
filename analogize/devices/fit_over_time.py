"""What time does to programmed devices, from readings at several times.

Without a column ``device`` the readings at each time are one sample: their spread and bias are
fitted at each (fit.py), which is the model ``relaxation``. With one, every device is followed:

    ln G_i(t) = ln G_i(t0) - nu_i ln(t / t0) + noise

by least squares; nu_mean and nu_std are the exponents' mean and standard deviation at every target
conductance, the latter without what reading alone scatters them by, and the noise left over is a
share of the conductance that every reading deviates by. ``t0`` is the first time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analogize.devices.fit import Fit, fit_readings, fitted_target
from analogize.devices.measurements import Floats, Measurements
from analogize.errors import TargetError
from analogize.targets.curve import Polynomial, Table
from analogize.targets.noise import (
    DriftNoise,
    NoiseModel,
    ReadNoise,
    RelaxationNoise,
    RelaxationPoint,
)
from analogize.targets.spec import Target


@dataclass(frozen=True)
class Drift:
    """Drift exponents at every target conductance.

    Attributes:
        levels: target conductances above 0 at which devices could be followed.
        mean: of the exponents at each.
        std: from device to device, without the scatter of readings.
        read: share of the conductance by which a reading deviates; 0 where two times do not tell.
        devices: how many were followed.
    """

    levels: Floats
    mean: Floats
    std: Floats
    read: float
    devices: int


@dataclass(frozen=True)
class TimeFit:
    """What was fitted to readings over time.

    Attributes:
        times: seconds after programming, ascending.
        fits: spread and bias at each; of the first alone where devices were followed.
        drift: where devices were followed.
    """

    times: Floats
    fits: tuple[Fit, ...]
    drift: Drift | None = None

    @property
    def noise(self) -> tuple[NoiseModel, ...]:
        """The fitted models."""
        if self.drift is None:
            points = tuple(
                RelaxationPoint(time=float(time), sigma=fit.noise.sigma, bias=fit.noise.bias)
                for time, fit in zip(self.times, self.fits, strict=True)
            )
            return (RelaxationNoise(points=points, valid=self.fits[0].noise.valid),)
        found, first = self.drift, self.fits[0]
        drift = DriftNoise(
            t0=float(self.times[0]),
            nu_mean=_table(found.levels, found.mean, first),
            nu_std=_table(found.levels, found.std, first),
            until=float(self.times[-1] - self.times[0]),
        )
        if not found.read:
            return first.noise, drift
        read = ReadNoise(sigma=Polynomial(coefficients=(0.0, float(f"{found.read:.4g}"))))
        return first.noise, drift, read

    def to_target(self, name: str) -> Target:
        """A target with the fitted noise; converters and array are left to be filled in."""
        first = self.fits[0]
        what = f"readings at {len(self.times)} times up to {self.times[-1]:g} s after programming"
        if self.drift is not None:
            what += f", {self.drift.devices} devices followed"
        return fitted_target(name, first.source, what, self.noise, first.levels, first.unit)


def fit_over_time(readings: Measurements, degree: int = 2) -> TimeFit:
    """Fit readings at several times: relaxation, or drift where devices are named.

    Args:
        readings: with times.
        degree: of the polynomials of spread and bias.

    Raises:
        TargetError: fewer than two times; devices that cannot be followed; or what ``fit_readings``
            raises, at the time at fault.
    """
    assert readings.time is not None, "asked for where there are times"
    times = np.unique(readings.time)
    if len(times) < 2:
        raise TargetError(
            f"{readings.source}: all readings are of the time {times[0]:g} s; leave the column "
            "'time' out, or read the devices again later"
        )
    if readings.device is None:
        fits = []
        for time in times:
            try:
                fits.append(fit_readings(readings.at(float(time)), degree))
            except TargetError as cause:
                raise TargetError(f"at {time:g} s: {cause}") from cause
        _require_same_levels(fits, times)
        return TimeFit(times, tuple(fits))
    if times[0] <= 0:
        raise TargetError(
            f"{readings.source}: the first reading is at {times[0]:g} s after programming; a power "
            "law needs a time above 0"
        )
    return TimeFit(times, (fit_readings(readings.at(float(times[0])), degree),), _follow(readings))


def _require_same_levels(fits: list[Fit], times: Floats) -> None:
    for time, fit in zip(times, fits, strict=True):
        if not np.array_equal(fit.levels, fits[0].levels):
            raise TargetError(
                f"{fit.source}: the target conductances at {time:g} s are not those at "
                f"{times[0]:g} s; read the same devices at every time"
            )


def _follow(readings: Measurements) -> Drift:
    assert readings.time is not None, "checked"
    assert readings.device is not None, "checked"
    exponents: dict[float, list[float]] = {}
    scatter: dict[float, list[float]] = {}
    residual, freedom = 0.0, 0
    for name in np.unique(readings.device):
        own = readings.device == name
        level = float(readings.target[own][0])
        time, measured = readings.time[own], readings.measured[own]
        if (readings.target[own] != level).any() or len(np.unique(time)) != len(time):
            raise TargetError(
                f"{readings.source}: device '{name}' has several targets, or two readings at one "
                "time; give every device a name of its own"
            )
        # A device that is off drifts without a logarithm to follow.
        if len(time) < 2 or level == 0 or (measured <= 0).any():
            continue
        x = np.log(time) - np.log(time).mean()
        y = np.log(measured) - np.log(measured).mean()
        power = float((x**2).sum())
        slope = float((x * y).sum()) / power
        exponents.setdefault(level, []).append(-slope)
        scatter.setdefault(level, []).append(1 / power)
        residual += float(((y - slope * x) ** 2).sum())
        freedom += len(time) - 2
    usable = sorted(level for level, found in exponents.items() if len(found) > 1)
    if not usable:
        raise TargetError(
            f"{readings.source}: no two devices of one target above 0 were read twice with "
            "readings above 0, so no drift can be fitted"
        )
    read = math.sqrt(residual / freedom) if freedom else 0.0
    mean = np.array([np.mean(exponents[level]) for level in usable])
    variance = np.array([np.var(exponents[level], ddof=1) for level in usable])
    of_reading = np.array([read**2 * np.mean(scatter[level]) for level in usable])
    std = np.sqrt(np.maximum(variance - of_reading, 0))
    return Drift(np.array(usable), mean, std, read, sum(map(len, exponents.values())))


def _table(levels: Floats, values: Floats, fit: Fit) -> Table | Polynomial:
    """Points of the followed levels, the outer ones held to the ends of the range."""
    found = [(float(at), float(f"{value:.4g}")) for at, value in zip(levels, values, strict=True)]
    low, high = float(fit.levels[0]), float(fit.levels[-1])
    if found[0][0] > low:
        found.insert(0, (low, found[0][1]))
    if found[-1][0] < high:
        found.append((high, found[-1][1]))
    if len(found) == 1:
        return Polynomial(coefficients=(found[0][1],))
    at, value = zip(*found, strict=True)
    return Table(conductance=at, value=value)
