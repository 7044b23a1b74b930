"""The settings of one region: the target's, under those of the overrides that name it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from analogize.errors import TargetError
from analogize.targets.base import refuse

if TYPE_CHECKING:
    from analogize.targets.spec import Override, Target

_DISCRIMINATORS = ("kind", "model")


def settings_of(target: Target, region: str) -> Target:
    """The target of the region called ``region``: ``target`` itself where no override names it.

    Raises:
        TargetError: several overrides that name it contradict one another.
    """
    chosen = [o for o in target.overrides if names(o, region)]
    if not chosen:
        return target
    try:
        return _laid_over(target, chosen)
    except ValidationError as error:
        key, reason = _first(error)
        raise TargetError(
            f"target '{target.name}': its overrides for region '{region}' contradict one another: "
            f"{key}: {reason}"
        ) from error


def names(override: Override, region: str) -> bool:
    """Whether one of the override's patterns matches the region's name."""
    return any(fnmatchcase(region, pattern) for pattern in override.regions)


def check_overrides(target: Target) -> None:
    """Every override must make a consistent target by itself."""
    for index, override in enumerate(target.overrides):
        try:
            _laid_over(target, [override])
        except ValidationError as error:
            key, reason = _first(error)
            raise refuse(f"overrides.{index}.{key}", reason) from error


def _laid_over(target: Target, overrides: list[Override]) -> Target:
    merged = target.model_dump(by_alias=True, exclude={"overrides"})
    for override in overrides:
        change = override.model_dump(exclude_unset=True, exclude={"regions"})
        # Lists and tiles are given as a whole, defaults included.
        whole = override.model_dump(include={"noise", "array", "conductance"} & change.keys())
        merged = _merge(merged, change) | whole
    return type(target).model_validate(merged)


def _merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if any(base.get(k) != change.get(k) for k in _DISCRIMINATORS if k in base and k in change):
        return change
    return base | {k: _merge(base.get(k), v) for k, v in change.items()}


def _first(error: ValidationError) -> tuple[str, str]:
    """Key and reason of the first mistake."""
    details = error.errors(include_url=False)[0]
    context = details.get("ctx", {})
    steps = [*map(str, details["loc"]), *([context["key"]] if "key" in context else [])]
    return ".".join(steps), str(context.get("reason", details["msg"]))
