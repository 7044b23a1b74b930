"""Noise models of the user's own: a function found by import path or entry point."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

from analogize.errors import TargetError

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
