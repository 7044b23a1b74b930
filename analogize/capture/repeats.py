"""Weights that Python repeats by copies: the same values as a view that repeats without.

A weight that is repeated over a batch is one array, at every size of the batch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from analogize.model.expression import function_name

_VIEWS = {"t", "T", "mT", "transpose", "permute", "unsqueeze", "squeeze", "select", "__getitem__"}


class Repeats:
    """For each repeated tensor of a running interception, the view that it equals."""

    def __init__(self) -> None:
        self._views: dict[int, tuple[Tensor, Tensor]] = {}

    def without(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a product, views in the place of copies."""
        if not self._views:
            return values
        return tuple(
            self.without(v) if type(v) is tuple else self._view(v) if isinstance(v, Tensor) else v
            for v in values
        )

    def forget(self, tensor: Tensor) -> None:
        """``tensor`` was written to; it equals no view any more."""
        self._views.pop(id(tensor), None)

    def note(self, func: Any, args: tuple[Any, ...], kwargs: Any, result: Tensor) -> None:
        """``func`` made ``result`` of a weight; remember the view, if there is one."""
        if not args or not isinstance(args[0], Tensor):
            return
        source, name = self._view(args[0]), function_name(func)
        view: Any = None
        if name == "repeat":
            view = _expanded(source, tuple(result.shape))
        elif name in ("contiguous", "clone") and 0 in source.stride():
            view = source
        elif name in _VIEWS and source is not args[0]:
            view = func(source, *args[1:], **kwargs)
        if isinstance(view, Tensor) and view is not result:
            self._views[id(result)] = result, view

    def _view(self, tensor: Tensor) -> Tensor:
        return self._views.get(id(tensor), (tensor, tensor))[1]


def _expanded(source: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``source`` expanded to ``shape``; None where it repeats along a dimension of its own."""
    own = shape[len(shape) - source.ndim :]
    if any(n not in (1, m) for n, m in zip(source.shape, own, strict=True)):
        return None
    return source.expand(shape)
