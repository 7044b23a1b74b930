"""Copies of models, of what torch by itself refuses to copy too, and models as they were."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from analogize.errors import CaptureError
from analogize.model.sharding import has_shards
from analogize.model.snapshot import Snapshot

Model = TypeVar("Model", bound=nn.Module)
Wanted = TypeVar("Wanted")

_COMPILED = "_torchdynamo_orig_callable"


def copied(model: Model) -> Model:
    """A deep copy of ``model``.

    Weights that hooks compute are values of the last call, with its graph; the copy computes its
    own in the next one. Buffers without a shape stay without. A function that closes over the
    model, such as a forward of the instance's own, closes over the copy. What torch.compile made
    of a method is that method again.

    Raises:
        CaptureError: an attribute cannot be copied.
    """
    memo: dict[int, Any] = {}
    found = _Found(model)
    for tensor in found.tensors:
        memo[id(tensor)] = _copy_of(tensor)
    twins = [(f, _unbound(f)) for f in found.functions]
    memo.update({id(f): twin for f, twin in twins})
    try:
        twin = copy.deepcopy(model, memo)
        for function, new in twins:
            _bind(function, new, found, memo)
        for module, key, method in found.compiled:
            memo[id(module)].__dict__[key] = copy.deepcopy(method, memo)
    except Exception as error:
        raise _refusal(model, memo, error) from error
    for module, key, _ in found.compiled:
        _drop_default(memo[id(module)], key)
    return twin


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of whose weights this process holds a part.

    Raises:
        CaptureError: with the order in which it works.
    """
    if has_shards(model):
        raise CaptureError(
            f"the parameters of {type(model).__name__} are shared out over processes (FSDP); "
            "rewrite the model first, and call fully_shard() on what analogize() returns"
        )


class _Found:
    """What a plain deep copy of a model would miss or fail at."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors: list[Tensor] = []
        self.functions: list[FunctionType] = []
        self.compiled: list[tuple[nn.Module, str, Any]] = []
        self._own = {id(v) for v in (*model.modules(), *model.parameters(), *model.buffers())}
        self._known: dict[int, bool] = {}
        self._keep: list[Any] = []
        for module in model.modules():
            for key, value in module.__dict__.items():
                if hasattr(value, _COMPILED) and isinstance(value, FunctionType):
                    self.compiled.append((module, key, getattr(value, _COMPILED)))
                    value = getattr(value, _COMPILED)
                self.refers(value)

    def refers(self, value: Any) -> bool:
        """Whether ``value`` leads to a part of the model; notes what is met on the way."""
        if isinstance(value, int | float | str | bytes | type | None):
            return False
        if id(value) in self._known:
            return self._known[id(value)]
        self._known[id(value)] = id(value) in self._own
        self._keep.append(value)
        if isinstance(value, Tensor):
            if not value.is_leaf or value.layout is not torch.strided or _is_shapeless(value):
                self.tensors.append(value)
            return self._known[id(value)]
        inside = [self.refers(v) for v in _inside(value)]
        self._known[id(value)] |= any(inside)
        if isinstance(value, FunctionType) and self._known[id(value)]:
            self.functions.append(value)
        return self._known[id(value)]


def held(value: Any, wanted: Mapping[int, Wanted]) -> list[Wanted]:
    """Those of ``wanted``, by the ids of objects, that are met in ``value`` at any depth."""
    seen: dict[int, Any] = {}
    pending, found = [value], []
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, int | float | str | bytes | type | None):
            continue
        seen[id(value)] = value
        if id(value) in wanted:
            found.append(wanted[id(value)])
        pending += _inside(value)
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        cells = [v for cell in value.__closure__ or () for v in _contents(cell)]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, nn.Module):
        return []
    members = getattr(value, "__dict__", None)
    own = not type(value).__module__.startswith(("torch.", "lightning.", "logging"))
    return list(members.values()) if isinstance(members, dict) and own else []


def _contents(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _is_shapeless(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedBuffer)


def _copy_of(tensor: Tensor) -> Tensor:
    if isinstance(tensor, UninitializedBuffer):
        likewise: Any = {"device": tensor.device, "dtype": tensor.dtype}
        return UninitializedBuffer(requires_grad=False, **likewise)
    values = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, tensor.requires_grad)
    return values


def _unbound(function: FunctionType) -> FunctionType:
    """The same code with a closure that is still empty."""
    cells = tuple(CellType() for _ in function.__closure__ or ())
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells or None
    )
    twin.__dict__.update(function.__dict__)
    twin.__qualname__, twin.__doc__ = function.__qualname__, function.__doc__
    return twin


def _bind(function: FunctionType, twin: FunctionType, found: _Found, memo: dict[int, Any]) -> None:
    def like(value: Any) -> Any:
        return copy.deepcopy(value, memo) if found.refers(value) else value

    for old, new in zip(function.__closure__ or (), twin.__closure__ or (), strict=True):
        for value in _contents(old):
            new.cell_contents = like(value)
    twin.__defaults__ = tuple(map(like, function.__defaults__ or ())) or None
    twin.__kwdefaults__ = {k: like(v) for k, v in (function.__kwdefaults__ or {}).items()} or None


def uncompiled(model: nn.Module) -> None:
    """Put the methods that torch.compile took back in their place, in ``model`` itself."""
    for module, key, method in _Found(model).compiled:
        module.__dict__[key] = method
        _drop_default(module, key)


def _drop_default(module: nn.Module, key: str) -> None:
    """An attribute that says what the class says anyway is none."""
    method: Any = module.__dict__.get(key)
    own = isinstance(method, MethodType) and method.__self__ is module
    if own and method.__func__ is getattr(type(module), key, None):
        del module.__dict__[key]


def _refusal(model: nn.Module, memo: dict[int, Any], error: Exception) -> CaptureError:
    """Which attribute cannot be copied, and the way out."""
    fresh = {id(v): v for v in (*model.modules(), *model.parameters(), *model.buffers())}
    fresh |= {k: v for k, v in memo.items() if isinstance(k, int)}
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            try:
                copy.deepcopy(value, dict(fresh))
            except Exception:
                path = f"{name}.{key}".lstrip(".")
                return CaptureError(
                    f"'{path}', a {type(value).__name__}, cannot be copied ({error}); call "
                    "analogize(..., inplace=True), which rewrites the model itself and copies "
                    f"nothing, or set '{path}' after analogize()"
                )
    return CaptureError(
        f"{type(model).__name__} cannot be copied ({error}); call analogize(..., inplace=True), "
        "which rewrites the model itself and copies nothing"
    )


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """After an error in the block, ``model`` is as it was: modules, classes, attributes, modes."""
    before = Snapshot(model)
    kinds = [(module, type(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, kind in kinds:
            module.__class__ = kind
        before.restore()
        raise
