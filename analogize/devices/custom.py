"""Models of the user's own: a function found by import path or entry point."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from torch import Tensor

from analogize.errors import ChipError, TargetError
from analogize.quantize import Bound
from analogize.targets.conductance import Conductance
from analogize.targets.noise import CustomNoise
from analogize.targets.spec import Target

if TYPE_CHECKING:
    from analogize.devices.cells import Reading

GROUP = "analogize.noise"


@dataclass(frozen=True)
class Site:
    """Where and under which conditions a function acts.

    Attributes:
        region: the array's name.
        on: what it is given: ``"weights"``, ``"devices"``, ``"inputs"``, ``"outputs"`` or
            ``"converter"``.
        tile: which row of tiles, from 0; 0 where tiles are not told apart (weights, devices).
        digit: which digit of a sliced weight, the least significant first.
        input_digit: which digit of a bit-serial input, likewise.
        axis: the dimension of the values along which the columns lie, from the end; None for
            inputs, weights and devices.
        low: the smallest code of the DAC (inputs) or of the ADC; None for weights and devices.
        high: the largest.
        full_sum: a full-scale input times a full-scale weight in array units; 0 where one of them
            has no full scale.
        conductance: range and unit of the devices, or None.
        drift_time: seconds since programming.
        cycle: which programming of the chip.
        conditions: of ``program`` or ``evaluate``, by name.
    """

    region: str
    on: str
    tile: int = 0
    digit: int = 0
    input_digit: int = 0
    axis: int | None = None
    low: Bound | None = None
    high: Bound | None = None
    full_sum: float = 0.0
    conductance: Conductance | None = None
    drift_time: float = 0.0
    cycle: int = 0
    conditions: Mapping[str, float] = field(default_factory=dict)


@cache
def resolve(function: str) -> Callable[..., Any]:
    """The function that a target names.

    Args:
        function: ``package.module:function``, or the name of an entry point of the group
            ``analogize.noise``.

    Raises:
        TargetError: it cannot be found or imported; the message says what was tried.
    """
    if ":" not in function:
        return _entry_point(function)
    module, _, attribute = function.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as cause:
        raise TargetError(
            f"the noise model '{function}' cannot be loaded: tried to import the module '{module}' "
            f"and to take '{attribute}' from it: {type(cause).__name__}: {cause}"
        ) from cause
    return _callable(function, found)


# What a function is given by position; its parameters come by name.
_GIVEN = {
    "weights": ("weights", "w_min", "w_max", "generator"),
    "devices": ("conductances", "drift_time", "generator"),
    "inputs": ("values", "site", "generator"),
    "outputs": ("values", "site", "generator"),
    "converter": ("values", "site", "generator"),
}


def check_functions(target: Target) -> None:
    """Find every function that ``target`` names, and see that it takes its parameters.

    Raises:
        TargetError: one cannot be found, imported or called with the parameters given.
    """
    overridden = (model for override in target.overrides for model in override.noise or ())
    for model in (*target.noise, *overridden):
        if isinstance(model, CustomNoise):
            _check_signature(model, resolve(model.function))


def _check_signature(model: CustomNoise, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it says at its first call
        return
    given = _GIVEN[model.on]
    by_name = {"site": None} if _wants_site(model, function) else {}
    try:
        signature.bind(*given, **by_name, **model.parameters)
    except TypeError as cause:
        raise TargetError(
            f"the noise model '{model.function}' cannot be called: {cause}; on {model.on} it is "
            f"called with {', '.join(given)}, and by name with the target's parameters "
            f"({', '.join(model.parameters) or 'none are given'}); its signature is {signature}"
        ) from cause


def _wants_site(model: CustomNoise, function: Callable[..., Any]) -> bool:
    """Whether a function on weights or devices asks for the site by name."""
    if "site" in _GIVEN[model.on] or "site" in model.parameters:
        return False
    try:
        return "site" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def call(
    model: CustomNoise, what: str, values: Tensor, *others: Any, site: Site | None = None
) -> Tensor:
    """What the function of ``model`` makes of ``values``, which are ``what``.

    Args:
        model: the model.
        what: in a word or two, for errors.
        values: what it changes.
        others: its further arguments by position.
        site: given by name to a function on weights or devices that has such a parameter.

    Raises:
        ChipError: it fails, or returns something of another shape.
    """
    function = resolve(model.function)
    _check_signature(model, function)
    by_name = {"site": site} if _wants_site(model, function) else {}
    try:
        found = function(values, *others, **by_name, **model.parameters)
    except Exception as cause:
        raise ChipError(
            f"the noise model '{model.function}' failed on {what} of shape "
            f"{tuple(values.shape)}: {type(cause).__name__}: {cause}"
        ) from cause
    if not isinstance(found, Tensor) or found.shape != values.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ChipError(
            f"the noise model '{model.function}' must return {what} of the shape "
            f"{tuple(values.shape)} that it was given, not {got}"
        )
    return found


def site_of(
    model: CustomNoise, name: str, conductance: Conductance | None, reading: Reading
) -> Site:
    """Where and under which conditions a function on the array ``name`` acts."""
    return Site(
        region=name,
        on=model.on,
        digit=reading.digit,
        conductance=conductance,
        drift_time=reading.time,
        cycle=reading.cycle,
        conditions=reading.conditions,
    )


def _entry_point(name: str) -> Callable[..., Any]:
    points = metadata.entry_points(group=GROUP)
    if name not in points.names:
        known = ", ".join(sorted(points.names)) or "none is installed"
        raise TargetError(
            f"the noise model '{name}' cannot be loaded: tried the entry points of the group "
            f"'{GROUP}' ({known}); for a function in a module, write 'package.module:function'"
        )
    point = points[name]
    try:
        found = point.load()
    except Exception as cause:
        raise TargetError(
            f"the noise model '{name}' cannot be loaded: tried the entry point '{point.value}': "
            f"{type(cause).__name__}: {cause}"
        ) from cause
    return _callable(name, found)


def _callable(name: str, found: Any) -> Callable[..., Any]:
    if not callable(found):
        raise TargetError(
            f"the noise model '{name}' is {type(found).__name__}, which cannot be called; name a "
            "function"
        )
    return found  # type: ignore[no-any-return]
