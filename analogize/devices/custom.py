"""Noise models of the user's own: a function found by import path or entry point."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

from torch import Tensor

from analogize.errors import ChipError, TargetError
from analogize.targets.noise import CustomNoise
from analogize.targets.spec import Target

GROUP = "analogize.noise"


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
    try:
        signature.bind(*given, **model.parameters)
    except TypeError as cause:
        raise TargetError(
            f"the noise model '{model.function}' cannot be called: {cause}; on {model.on} it is "
            f"called with {', '.join(given)}, and by name with the target's parameters "
            f"({', '.join(model.parameters) or 'none are given'}); its signature is {signature}"
        ) from cause


def call(model: CustomNoise, what: str, values: Tensor, *others: Any) -> Tensor:
    """What the function of ``model`` makes of ``values``, which are ``what``.

    Raises:
        ChipError: it fails, or returns something of another shape.
    """
    function = resolve(model.function)
    _check_signature(model, function)
    try:
        found = function(values, *others, **model.parameters)
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
