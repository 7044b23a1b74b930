"""A programming-noise polynomial from measured conductances, and a target that uses it.

Devices are programmed to several target conductances, many devices to each, and read once. At each
target G_i the sample's standard deviation s_i (of n_i readings, about their mean) estimates
sigma(G_i) with a relative standard error of 1 / sqrt(2 (n_i - 1)) for normal readings; the
polynomial is the weighted least-squares fit to the s_i with those errors.
"""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from analogize.errors import TargetError
from analogize.targets.conductance import Conductance
from analogize.targets.curve import Polynomial
from analogize.targets.noise import ProgrammingNoise, Validity
from analogize.targets.spec import AbsMaxRange, Target, Weights

COLUMNS = ("target", "measured")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """What was fitted to one file of measurements.

    Attributes:
        source: the file's name.
        levels: the target conductances, ascending.
        counts: readings at each.
        spread: standard deviation of the readings at each.
        bias: mean of the readings minus the target, at each; not part of the noise model.
        coefficients: of the polynomial in x = G / reference, constant term first.
        reference: the largest target conductance.
    """

    source: str
    levels: Floats
    counts: Floats
    spread: Floats
    bias: Floats
    coefficients: tuple[float, ...]
    reference: float

    def sigma(self, conductance: Floats) -> Floats:
        """The fitted standard deviation at every conductance."""
        powers = np.vander(conductance / self.reference, len(self.coefficients), increasing=True)
        fitted: Floats = powers @ np.array(self.coefficients)
        return fitted

    @property
    def chi_square(self) -> float:
        """Mean squared residual in units of its standard error; about 1 for a curve that fits."""
        freedom = len(self.levels) - len(self.coefficients)
        if not freedom:
            return math.nan
        residual = (self.spread - self.sigma(self.levels)) / _errors(self.spread, self.counts)
        return float((residual**2).sum() / freedom)

    def to_target(self, name: str, unit: Literal["uS", "nA"] = "uS") -> Target:
        """A target with the fitted noise; converters and array are left to be filled in.

        Args:
            name: the target's.
            unit: of the measurements.
        """
        low, high = float(self.levels[0]), float(self.levels[-1])
        return Target(
            name=name,
            description=f"Programming noise fitted to {self.source}.",
            references=(
                f"{self.source}: {int(self.counts.sum())} readings at {len(self.levels)} "
                "target conductances",
            ),
            weights=Weights(range=AbsMaxRange(), grid="symmetric"),
            conductance=Conductance(g_min=low, g_max=high, unit=unit),
            noise=(
                ProgrammingNoise(
                    sigma=Polynomial(coefficients=self.coefficients, reference=self.reference),
                    valid=Validity(min=low, max=high),
                ),
            ),
        )


def fit_programming_noise(path: str | os.PathLike[str], degree: int = 2) -> Fit:
    """Fit sigma(G) = c_0 + c_1 x + ... to a CSV with the columns ``target`` and ``measured``.

    Args:
        path: one row a device: the conductance asked for and the one read, in the same unit.
            Further columns are ignored.
        degree: of the polynomial.

    Raises:
        TargetError: the file cannot be read; a value is no conductance (the message names row and
            column); too few readings; or a fit that is negative where it was measured.
    """
    file = Path(path)
    groups = _read(file)
    if degree < 0 or len(groups) <= degree:
        raise TargetError(
            f"{file.name}: a polynomial of degree {degree} needs readings at {max(degree, 0) + 1} "
            f"target conductances at least, and the file has {len(groups)}; lower --degree (0 or "
            "more), or measure more levels"
        )
    for level, readings in groups.items():
        if len(readings) < 3:
            raise TargetError(
                f"{file.name}: {len(readings)} reading(s) at the target {level:g} tell too little "
                "of a spread; give at least 3, better 100, devices for every target conductance"
            )
    levels = np.array(sorted(groups))
    counts = np.array([float(len(groups[level])) for level in levels])
    spread = np.array([np.std(groups[level], ddof=1) for level in levels])
    bias = np.array([np.mean(groups[level]) for level in levels]) - levels
    if not spread.all():
        level = levels[int(spread.argmin())]
        raise TargetError(
            f"{file.name}: all readings at the target {level:g} are equal; a spread of zero cannot "
            "be weighed against others, so leave that level out or give readings with more digits"
        )
    reference = float(levels[-1])
    powers = np.vander(levels / reference, degree + 1, increasing=True)
    weights = 1 / _errors(spread, counts)
    found, *_ = np.linalg.lstsq(powers * weights[:, None], spread * weights, rcond=None)
    result = Fit(
        file.name, levels, counts, spread, bias, tuple(float(f"{c:.6g}") for c in found), reference
    )
    _require_positive(result)
    return result


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


def _read(file: Path) -> dict[float, list[float]]:
    """The readings at every target conductance."""
    groups: dict[float, list[float]] = defaultdict(list)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise TargetError(
                    f"{file.name}, row 1: there is no column '{missing[0]}'; the first row must "
                    f"name the columns 'target' and 'measured', and it holds {found}"
                )
            for row in reader:
                target, measured = (_number(row, name, file, reader.line_num) for name in COLUMNS)
                groups[target].append(measured)
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise TargetError(f"cannot read the measurements in {file}: {cause}") from cause
    if not groups or max(groups) <= 0:
        raise TargetError(f"{file.name}: there is no reading at a conductance above 0")
    return groups


def _number(row: dict[str, str | None], column: str, file: Path, line: int) -> float:
    text = (row[column] or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # A reading may fall below zero by the noise of the instrument; a target cannot.
    if not math.isfinite(value) or (column == "target" and value < 0):
        allowed = "a finite number" + (" of at least 0" if column == "target" else "")
        raise TargetError(
            f"{file.name}, row {line}, column '{column}': {text!r} is no conductance; give "
            f"{allowed}, in the same unit throughout"
        )
    return value
