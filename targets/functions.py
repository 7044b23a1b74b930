"""Which Python functions a target names, and whether the caller lets them run.

A target may come from anyone, and ``package.module:function`` would import and call whatever that
names. Entry points of the group ``analogize.noise`` are a package's own offer for this very use, so
installing the package is consent enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from analogize.targets.noise import CustomNoise
from analogize.targets.spec import NoiseModel, Target

Allowed = bool | Collection[str]


def is_foreign(model: NoiseModel, allow: Allowed) -> bool:
    """Whether ``model`` is a function of some module's that ``allow`` does not name.

    Args:
        model: Any noise model.
        allow: True for every function, False for none, or the functions that may run.
    """
    if not isinstance(model, CustomNoise) or ":" not in model.function:
        return False
    if isinstance(allow, bool):
        return not allow
    return model.function not in ([allow] if isinstance(allow, str) else allow)


def foreign(target: Target, allow: Allowed) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Path and name of every function in ``target`` that ``allow`` does not name."""
    yield from _among(target.noise, ("noise",), allow)
    for index, override in enumerate(target.overrides):
        yield from _among(override.noise or (), ("overrides", index, "noise"), allow)


def refusal(function: str, call: str) -> str:
    """Why a function may not run, and how to let it: by an argument of ``call``."""
    return (
        f"'{function}' is a Python function, which this file would import and run; if you trust "
        f"file and function, call {call} with allow_functions=[{function!r}] (or True for all); "
        "a command takes --allow-functions"
    )


def _among(
    models: Iterable[NoiseModel], path: tuple[str | int, ...], allow: Allowed
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for index, model in enumerate(models):
        if is_foreign(model, allow):
            assert isinstance(model, CustomNoise)
            yield (*path, index, "function"), model.function
