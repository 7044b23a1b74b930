"""Times since programming, as a user writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from analogize.errors import ChipError
from analogize.targets.noise import NoiseModel, depends_on_time

_SECONDS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "second": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 30 * 86400.0,
    "year": 365 * 86400.0,
}
_TEXT = re.compile(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)?\s*([a-z]+?)\s*")


def seconds(time: float | str) -> float:
    """A time in seconds: a number, or text such as ``"1 day"``, ``"90 s"``, ``"year"``.

    A month is 30 days and a year 365.

    Raises:
        ChipError: text that is no time, or a time that is negative or not finite.
    """
    value = _parse(time) if isinstance(time, str) else float(time)
    if not 0 <= value < math.inf:
        raise ChipError(f"drift_time {time!r} must be a finite time of at least 0 seconds")
    return value


def _parse(text: str) -> float:
    match = _TEXT.fullmatch(text.lower())
    unit = match.group(2) if match else ""
    scale = _SECONDS.get(unit) or _SECONDS.get(unit.removesuffix("s"))
    try:
        if match is None or scale is None:
            raise ValueError(text)
        return float(match.group(1) or 1) * scale
    except ValueError as cause:
        raise ChipError(
            f"drift_time {text!r} is no time; give seconds, or a number and one of "
            f"{', '.join(_SECONDS)}, for example '1 day'"
        ) from cause


def require_time(target: str, noise: Iterable[tuple[NoiseModel, ...]], time: float) -> None:
    """Refuse a time after 0 where nothing changes with it: every chip would be the same.

    Args:
        target: its name, for the error.
        noise: the noise models of every array.
        time: seconds after programming.

    Raises:
        ChipError: no array has a model that depends on time.
    """
    if time and not any(depends_on_time(model) for models in noise for model in models):
        raise ChipError(
            f"a chip of the target '{target}' is the same {describe(time)} after programming as at "
            "once: none of its noise models depends on time. Leave drift_time at 0, or take a "
            "target whose devices drift or relax, for example 'pcm_joshi2020'"
        )


def describe(time: float) -> str:
    """A time in its largest fitting unit: ``86400.0`` is ``"1 day"``."""
    for unit in ("year", "month", "week", "day", "hour", "minute"):
        count = time / _SECONDS[unit]
        if count >= 1:
            return f"{count:.3g} {unit}" + ("" if f"{count:.3g}" == "1" else "s")
    return f"{time:g} s"
