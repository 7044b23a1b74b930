"""Measured conductances from a CSV file: target, reading, and perhaps time and device."""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from analogize.errors import TargetError

Floats = npt.NDArray[np.float64]
Unit = Literal["uS", "nA"]

COLUMNS = ("target", "measured")
# What a header may say: the target's unit, and how many of it one is.
_UNITS: dict[str, tuple[Unit, float]] = {
    "S": ("uS", 1e6),
    "mS": ("uS", 1e3),
    "uS": ("uS", 1.0),
    "nS": ("uS", 1e-3),
    "A": ("nA", 1e9),
    "uA": ("nA", 1e3),
    "nA": ("nA", 1.0),
    "pA": ("nA", 1e-3),
}
_HEADER = re.compile(r"\s*(?P<name>[^()\[\]]*?)\s*(?:[(\[]\s*(?P<unit>[^()\[\]]*?)\s*[)\]])?\s*")
# Microsiemens of real devices; a file of siemens lies far below.
_PLAUSIBLE = 1e-2


@dataclass(frozen=True)
class Measurements:
    """Readings of devices, one an entry; conductances in ``unit``.

    Attributes:
        source: the file's name.
        unit: uS, or nA for currents at the read voltage.
        target: what each device was asked to hold.
        measured: what was read.
        time: seconds after programming, or None where the file has no times.
        device: which device was read, or None where the file does not tell.
    """

    source: str
    unit: Unit
    target: Floats
    measured: Floats
    time: Floats | None
    device: npt.NDArray[np.str_] | None

    def at(self, time: float) -> Measurements:
        """The readings at one of the times."""
        assert self.time is not None, "asked for where there are times"
        inside = self.time == time
        device = None if self.device is None else self.device[inside]
        return Measurements(
            self.source, self.unit, self.target[inside], self.measured[inside], None, device
        )


def read_measurements(path: str | os.PathLike[str], unit: Unit | None = None) -> Measurements:
    """Read a CSV with the columns ``target`` and ``measured``, perhaps ``time`` and ``device``.

    Values are separated by commas, semicolons or tabs. A header may give a unit, ``target (nS)``;
    times are in seconds. Further columns are ignored.

    Args:
        path: one row a reading.
        unit: of conductances whose header gives none; None takes microsiemens, and refuses values
            that can be none.

    Raises:
        TargetError: the file cannot be read, lacks a column, has unknown or contradictory units,
            or a value that is no number: the message names row and column.
    """
    file = Path(path)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            stream.seek(0)
            separator = max(",;\t", key=first.count)
            reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
            header = next(reader, [])
            places, units = _columns(header, file.name)
            found, factors = _factors(units, file.name, unit)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise TargetError(f"cannot read the measurements in {file}: {cause}") from cause
    columns = {
        name: np.array([_number(row, place, name, file.name, line) for line, row in rows])
        for name, place in places.items()
        if name != "device"
    }
    target, measured = (
        columns[name] * factor for name, factor in zip(COLUMNS, factors, strict=True)
    )
    if not rows or target.max() <= 0:
        raise TargetError(f"{file.name}: there is no reading at a conductance above 0")
    if unit is None and found is None and target.max() < _PLAUSIBLE:
        raise TargetError(
            f"{file.name}: its largest target is {target.max():.3g}, which is little for "
            "microsiemens; say the unit in the header, 'target (S)', or with --unit"
        )
    device = None
    if "device" in places:
        place = places["device"]
        device = np.array([row[place].strip() if place < len(row) else "" for _, row in rows])
    time = columns.get("time")
    return Measurements(file.name, found or unit or "uS", target, measured, time, device)


def _columns(header: list[str], file: str) -> tuple[dict[str, int], dict[str, str]]:
    """Where the columns are, and the units that their headers give."""
    places: dict[str, int] = {}
    units: dict[str, str] = {}
    for place, text in enumerate(header):
        match = _HEADER.fullmatch(text)
        name = text if match is None else match["name"].lower()
        if name in (*COLUMNS, "time", "device") and name not in places:
            places[name] = place
            if match is not None and match["unit"]:
                units[name] = match["unit"].replace("µ", "u").replace("μ", "u")
    missing = [name for name in COLUMNS if name not in places]
    if missing:
        raise TargetError(
            f"{file}, row 1: there is no column '{missing[0]}'; the first row must name the "
            f"columns 'target' and 'measured', and it holds {', '.join(header) or 'nothing'}"
        )
    if units.get("time", "s") != "s":
        raise TargetError(f"{file}, row 1: times are in seconds, not '{units['time']}'")
    return places, units


def _factors(units: dict[str, str], file: str, unit: Unit | None) -> tuple[Unit | None, Floats]:
    """The unit that the header gives, if any, and how much of it each column's is."""
    given = [units[name] for name in COLUMNS if name in units]
    if not given:
        return None, np.ones(2)
    if len(given) == 1:
        raise TargetError(f"{file}, row 1: give the units of target and measured, or of neither")
    for name in given:
        if name not in _UNITS:
            raise TargetError(
                f"{file}, row 1: the unit '{name}' is unknown; allowed are {', '.join(_UNITS)}"
            )
        into = _UNITS[given[0]][0]
        if _UNITS[name][0] != into or (unit or into) != into:
            raise TargetError(
                f"{file}, row 1: '{name}' cannot be given in {unit or into}; use one kind of unit"
            )
    return _UNITS[given[0]][0], np.array([_UNITS[name][1] for name in given])


def _number(row: list[str], place: int, column: str, file: str, line: int) -> float:
    text = row[place].strip() if place < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # A reading may fall below zero by the noise of the instrument; a target cannot.
    if not math.isfinite(value) or (column != "measured" and value < 0):
        allowed = "a finite number" + ("" if column == "measured" else " of at least 0")
        what = "time" if column == "time" else "conductance"
        raise TargetError(
            f"{file}, row {line}, column '{column}': {text!r} is no {what}; give {allowed}, in the "
            "same unit throughout, and leave out devices that were not read"
        )
    return value
