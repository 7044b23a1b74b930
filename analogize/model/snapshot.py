"""What a model's Python holds, at any depth: remembered before a run, put back after it.

Reached from a model: its modules, their attributes, containers and objects in them, what functions
close over, and random generators. Not reached: globals, and what libraries keep for themselves.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode

from analogize.model.undo import (
    Undo,
    contents,
    generator_undo,
    members_undo,
    own_undo,
    slot_undo,
    slots,
    stateful,
)

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
# Objects of these libraries are theirs, with caches and references to anything.
_FOREIGN = sys.stdlib_module_names | {"torch", "lightning", "pytorch_lightning", "numpy"}
_TABLES = ("_parameters", "_buffers", "_modules")


class Snapshot:
    """The state of everything that is reached from ``model``; see the module."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, Any] = {}
        self._undo: list[tuple[str, Undo]] = []
        self._registered = {id(t) for t in (*model.parameters(), *model.buffers())}
        for name, module in model.named_modules():
            self._reach(module, name)

    def restore(self) -> list[str]:
        """Put everything back; the names of what had changed."""
        changed = [(name, undo()) for name, undo in self._undo]
        names = [
            n if found is True else f"{n}.{found}".lstrip(".") for n, found in changed if found
        ]
        return list(dict.fromkeys(names))

    def _reach(self, root: Any, path: str) -> None:
        pending = [(root, path)]
        while pending:
            value, name = pending.pop()
            if isinstance(value, _ATOMS) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            pending += self._remember(value, name)

    def _remember(self, value: Any, name: str) -> list[tuple[Any, str]]:
        """Note how to put ``value`` back; what lies in it, with its name."""
        registered = id(value) in self._registered
        if not registered and (undo := own_undo(value)) is not None:
            self._undo.append((name, undo))
        if isinstance(value, Tensor) or generator_undo(value) is not None:
            return []
        if isinstance(value, dict):
            return _named(value, name)
        if isinstance(value, list | deque | set | frozenset | tuple):
            return [(v, name) for v in value]
        if (linked := _linked(value)) is not None:
            return [(v, name) for v in linked]
        return self._object(value, name)

    def _object(self, value: Any, name: str) -> list[tuple[Any, str]]:
        foreign = type(value).__module__.partition(".")[0] in _FOREIGN
        if foreign and not isinstance(value, nn.Module | SimpleNamespace):
            return []
        members = getattr(value, "__dict__", None)
        inside: list[tuple[Any, str]] = []
        if isinstance(members, dict):
            self._undo += members_undo(members, name)
            inside = _named(members, name)
        for slot in slots(value):
            self._undo.append((f"{name}.{slot}", slot_undo(value, slot)))
            inside.append((getattr(value, slot), f"{name}.{slot}"))
        return inside


def _named(members: dict[Any, Any], name: str) -> list[tuple[Any, str]]:
    return [
        (v, name if k in _TABLES else f"{name}.{k}".lstrip(".")) for k, v in list(members.items())
    ]


def _linked(value: Any) -> list[Any] | None:
    """What a function or a part of one leads to; None where ``value`` is no such thing."""
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return list(value.__closure__ or ())
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    return contents(value) if isinstance(value, CellType) else None


class _Weights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a copy of each parameter that is about to be written to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = [(p, p.detach()) for p in model.parameters() if _is_plain(p)]
        self._places: dict[int, list[Tensor]] = {}
        for parameter, _ in self._own:
            place = parameter.untyped_storage().data_ptr()
            self._places.setdefault(place, []).append(parameter)
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``; before it writes to a parameter, keep that one's values."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[position] if position < len(args) else kwargs.get(argument.name)
                    for tensor in given if isinstance(given, list | tuple) else [given]:
                        self._keep(tensor)
        return func(*args, **kwargs)

    def _keep(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and _is_plain(tensor):
            for parameter in self._places.pop(tensor.untyped_storage().data_ptr(), ()):
                self._kept.append((parameter, parameter.detach().clone()))

    def restore(self) -> None:
        """Give every parameter its values back."""
        with torch.no_grad():
            for parameter, values in self._own:
                if parameter.data_ptr() != values.data_ptr():
                    parameter.data = values
            for written, values in self._kept:
                written.copy_(values)


def _is_plain(tensor: Tensor) -> bool:
    uninitialized = isinstance(tensor, UninitializedParameter | UninitializedBuffer)
    strided = not uninitialized and tensor.layout is torch.strided and not tensor.is_meta
    return strided and not hasattr(tensor, "placements")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` may be run; afterwards all that its Python did is undone.

    Compiled parts run as Python. Buffers and modes are ``eval_mode``'s to restore.
    """
    before, weights = Snapshot(model), _Weights(model)
    outside = _outside()
    try:
        with _uncompiled(), weights:
            yield
    finally:
        weights.restore()
        before.restore()
        for undo in outside:
            undo()


def _uncompiled() -> AbstractContextManager[Any]:
    """In the block nothing is compiled. Importing what would is slow, and needless if none did."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _outside() -> list[Undo]:
    """How to set back the random generators that anyone's Python reaches by name."""
    undos = [stateful(random.getstate, random.setstate)]
    if (numpy := sys.modules.get("numpy.random")) is not None:
        undos.append(stateful(numpy.get_state, numpy.set_state))
    return undos
