"""Programming noise from measured conductances: spread and bias as polynomials, and a target.

Devices are programmed to several target conductances, many devices to each, and read once. At each
target G_i the sample's standard deviation s_i (of n_i readings, about their mean) estimates
sigma(G_i) with a relative standard error of 1 / sqrt(2 (n_i - 1)) for normal readings; the
polynomial is the weighted least-squares fit to the s_i with those errors. Where the mean readings
miss their targets by more than chance does (a chi-square test at 1 %), the bias is fitted likewise.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from analogize.devices.measurements import Floats, Measurements, Unit, read_measurements
from analogize.errors import TargetError
from analogize.files.writing import writing
from analogize.targets.conductance import Conductance
from analogize.targets.curve import Polynomial
from analogize.targets.noise import NoiseModel, ProgrammingNoise, Validity
from analogize.targets.spec import AbsMaxRange, Target, Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANCE = 0.01


@dataclass(frozen=True)
class Fit:
    """What was fitted to one file of measurements.

    Attributes:
        source: the file's name.
        levels: the target conductances, ascending.
        counts: readings at each.
        spread: standard deviation of the readings at each.
        bias: mean of the readings minus the target, at each.
        coefficients: of the polynomial in x = G / reference, constant term first.
        reference: the largest target conductance.
        bias_coefficients: of the bias likewise; empty where it is no more than chance.
        unit: of the conductances.
    """

    source: str
    levels: Floats
    counts: Floats
    spread: Floats
    bias: Floats
    coefficients: tuple[float, ...]
    reference: float
    bias_coefficients: tuple[float, ...] = ()
    unit: Unit = "uS"

    def sigma(self, conductance: Floats) -> Floats:
        """The fitted standard deviation at every conductance."""
        return _value(self.coefficients, conductance / self.reference)

    @property
    def chi_square(self) -> float:
        """Mean squared residual in units of its standard error; about 1 for a curve that fits."""
        freedom = len(self.levels) - len(self.coefficients)
        if not freedom:
            return math.nan
        residual = (self.spread - self.sigma(self.levels)) / _errors(self.spread, self.counts)
        return float((residual**2).sum() / freedom)

    @property
    def noise(self) -> ProgrammingNoise:
        """The fitted model."""
        found, reference = self.bias_coefficients, self.reference
        return ProgrammingNoise(
            sigma=Polynomial(coefficients=self.coefficients, reference=reference),
            bias=Polynomial(coefficients=found, reference=reference) if found else None,
            valid=Validity(min=float(self.levels[0]), max=float(self.levels[-1])),
        )

    def to_target(self, name: str, unit: Unit | None = None) -> Target:
        """A target with the fitted noise; converters and array are left to be filled in.

        Args:
            name: the target's.
            unit: of the measurements, if it is not the one that was read.
        """
        what = f"{int(self.counts.sum())} readings at {len(self.levels)} target conductances"
        return fitted_target(name, self.source, what, (self.noise,), self.levels, unit or self.unit)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw measured spreads and bias with their fits, and residuals in standard errors.

        Args:
            path: where to write the figure; its suffix chooses the format.

        Raises:
            TargetError: the figure cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        fine = np.linspace(self.levels[0], self.levels[-1], 200)
        errors = _errors(self.spread, self.counts)
        above.errorbar(self.levels, self.spread, errors, fmt="o", label="spread")
        above.plot(fine, self.sigma(fine), label="its fit")
        above.errorbar(
            self.levels, self.bias, self.spread / np.sqrt(self.counts), fmt="s", label="bias"
        )
        if self.bias_coefficients:
            above.plot(fine, _value(self.bias_coefficients, fine / self.reference), label="its fit")
        above.set_ylabel(self.unit)
        above.legend()
        below.axhline(0, linewidth=1)
        below.plot(self.levels, (self.spread - self.sigma(self.levels)) / errors, "o")
        below.set_ylabel("residual / error")
        below.set_xlabel(f"target conductance ({self.unit})")
        if path is not None:
            with writing(path, "the plot", TargetError, (ValueError,)) as draft:
                figure.savefig(draft, dpi=150)
        return figure


def fitted_target(
    name: str,
    source: str,
    what: str,
    noise: tuple[NoiseModel, ...],
    levels: Floats,
    unit: Unit,
) -> Target:
    """A target with fitted noise models on the conductances between the first and last level."""
    return Target(
        name=name,
        description=f"Device noise fitted to {source}.",
        references=(f"{source}: {what}",),
        weights=Weights(range=AbsMaxRange(), grid="symmetric"),
        conductance=Conductance(g_min=float(levels[0]), g_max=float(levels[-1]), unit=unit),
        noise=noise,
    )


def fit_programming_noise(
    path: str | os.PathLike[str], degree: int = 2, unit: Unit | None = None
) -> Fit:
    """Fit sigma(G) = c_0 + c_1 x + ... to a CSV with the columns ``target`` and ``measured``.

    Args:
        path: one row a device: the conductance asked for and the one read; see measurements.py.
        degree: of the polynomial.
        unit: where the header gives none.

    Raises:
        TargetError: the file cannot be read; a value is no conductance (the message names row and
            column); too few readings; or a fit that is negative where it was measured.
    """
    return fit_readings(read_measurements(path, unit), degree)


def fit_readings(readings: Measurements, degree: int = 2) -> Fit:
    """Fit spread and bias of readings; see ``fit_programming_noise``.

    Raises:
        TargetError: as there.
    """
    source, target = readings.source, readings.target
    levels = np.unique(target)
    if degree < 0 or len(levels) <= degree:
        raise TargetError(
            f"{source}: a polynomial of degree {degree} needs readings at {max(degree, 0) + 1} "
            f"target conductances at least, and the file has {len(levels)}; lower --degree (0 or "
            "more), or measure more levels"
        )
    groups = [readings.measured[target == level] for level in levels]
    for level, group in zip(levels, groups, strict=True):
        if len(group) < 3:
            raise TargetError(
                f"{source}: {len(group)} reading(s) at the target {level:g} tell too little "
                "of a spread; give at least 3, better 100, devices for every target conductance"
            )
    counts = np.array([float(len(group)) for group in groups])
    spread = np.array([np.std(group, ddof=1) for group in groups])
    bias = np.array([np.mean(group) for group in groups]) - levels
    if not spread.all():
        level = levels[int(spread.argmin())]
        raise TargetError(
            f"{source}: all readings at the target {level:g} are equal; a spread of zero cannot "
            "be weighed against others, so leave that level out or give readings with more digits"
        )
    reference = float(levels[-1])
    x, errors = levels / reference, spread / np.sqrt(counts)
    found = _polynomial(x, spread, _errors(spread, counts), degree)
    by_chance = stats.chi2.ppf(1 - _CHANCE, len(levels))
    missed = ((bias / errors) ** 2).sum() > by_chance
    of_bias = _polynomial(x, bias, errors, degree) if missed else ()
    result = Fit(source, levels, counts, spread, bias, found, reference, of_bias, readings.unit)
    _require_positive(result)
    return result


def _polynomial(x: Floats, values: Floats, errors: Floats, degree: int) -> tuple[float, ...]:
    """Coefficients of the weighted least-squares fit, constant term first."""
    powers = np.vander(x, degree + 1, increasing=True) / errors[:, None]
    found, *_ = np.linalg.lstsq(powers, values / errors, rcond=None)
    return tuple(float(f"{c:.6g}") for c in found)


def _value(coefficients: tuple[float, ...], x: Floats) -> Floats:
    values: Floats = np.vander(x, len(coefficients), increasing=True) @ np.array(coefficients)
    return values


def _errors(spread: Floats, counts: Floats) -> Floats:
    errors: Floats = spread / np.sqrt(2 * (counts - 1))
    return errors


def _require_positive(fit: Fit) -> None:
    inside = np.linspace(fit.levels[0], fit.levels[-1], 1001)
    sigma = fit.sigma(inside)
    if sigma.min() < 0:
        raise TargetError(
            f"{fit.source}: the fitted standard deviation is {sigma.min():.3g} at "
            f"{inside[sigma.argmin()]:.4g}, and it cannot be negative; use a lower --degree"
        )
