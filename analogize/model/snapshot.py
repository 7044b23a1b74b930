"""What a model's Python holds, at any depth: remembered before a run, put back after it.

Reached from a model: its modules, their attributes, containers and objects in them, what functions
close over, and random generators. Not reached: globals, and what libraries keep for themselves.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device)
# Objects of these libraries are theirs, with caches and references to anything.
_FOREIGN = sys.stdlib_module_names | {"torch", "lightning", "pytorch_lightning", "numpy"}
# Puts one thing back; says whether it had changed, or what of it.
Undo = Callable[[], bool | str]
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
        if not registered and (undo := _own_undo(value)) is not None:
            self._undo.append((name, undo))
        if isinstance(value, Tensor) or _generator(value) is not None:
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
            self._undo += _members(members, name)
            inside = _named(members, name)
        for slot in _slots(value):
            self._undo.append((f"{name}.{slot}", _slot(value, slot)))
            inside.append((getattr(value, slot), f"{name}.{slot}"))
        return inside


def _named(members: dict[Any, Any], name: str) -> list[tuple[Any, str]]:
    return [
        (v, name if k in _TABLES else f"{name}.{k}".lstrip(".")) for k, v in list(members.items())
    ]


def _own_undo(value: Any) -> Undo | None:
    """How to put back what ``value`` itself holds, apart from attributes; None for nothing."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, dict):
        return _refilled(value, dict(value), lambda v: v.update)
    if isinstance(value, list | deque):
        return _refilled(value, list(value), lambda v: v.extend)
    if isinstance(value, set):
        return _refilled(value, set(value), lambda v: v.update)
    if isinstance(value, CellType):
        return _cell(value)
    return _generator(value) or _numbers(value)


def _linked(value: Any) -> list[Any] | None:
    """What a function or a part of one leads to; None where ``value`` is no such thing."""
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return list(value.__closure__ or ())
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    return _contents(value) if isinstance(value, CellType) else None


def _members(members: dict[str, Any], name: str) -> list[tuple[str, Undo]]:
    """Attributes one by one, so that the one which changed can be named."""
    before = dict(members)

    def undo(key: str) -> Undo:
        def put_back() -> bool:
            if key in members and members[key] is before[key]:
                return False
            members[key] = before[key]
            return True

        return put_back

    def drop() -> bool | str:
        new = [key for key in members if key not in before]
        for key in new:
            del members[key]
        return new[0] if new else False

    undos = [(f"{name}.{key}".lstrip("."), undo(key)) for key in before]
    return [*undos, (name, drop)]


def _refilled(value: Any, before: Any, filler: Callable[[Any], Any]) -> Undo:
    def undo() -> bool | str:
        if _same(value, before):
            return False
        key = _changed_key(value, before)
        value.clear()
        filler(value)(before)
        return key or True

    return undo


def _changed_key(value: Any, before: Any) -> str:
    if not isinstance(before, dict):
        return ""
    keys = (k for k in (*before, *value) if k not in value or value[k] is not before.get(k))
    return str(next(keys, ""))


def _same(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(before, dict):
        return all(k in value and value[k] is v for k, v in before.items())
    if isinstance(before, set):
        return bool(value == before)
    return all(a is b for a, b in zip(value, before, strict=True))


def _tensor(tensor: Tensor) -> Undo | None:
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.requires_grad:
        return None
    before, place = tensor.detach().clone(), tensor.data_ptr()

    def undo() -> bool:
        if tensor.data_ptr() == place and torch.equal(tensor.detach(), before):
            return False
        with torch.no_grad():
            tensor.data = before
        return True

    return undo


def _generator(value: Any) -> Undo | None:
    """How to set a random generator back; None where ``value`` is none."""
    if isinstance(value, torch.Generator):
        state = value.get_state()

        def undo_torch() -> bool:
            if torch.equal(value.get_state(), state):
                return False
            value.set_state(state)
            return True

        return undo_torch
    if isinstance(value, random.Random):
        return stateful(value.getstate, value.setstate)
    kind = type(value).__name__
    if type(value).__module__.startswith("numpy.random"):
        source = getattr(value, "bit_generator", None)
        if source is not None:
            return stateful(lambda: source.state, lambda state: setattr(source, "state", state))
        if kind == "RandomState":
            return stateful(value.get_state, value.set_state)
    return None


def stateful(get: Callable[[], Any], put: Callable[[Any], Any]) -> Undo:
    """How to set a state back that can be read and written."""
    before = get()

    def undo() -> bool:
        if repr(get()) == repr(before):
            return False
        put(before)
        return True

    return undo


def _numbers(value: Any) -> Undo | None:
    """How to put a numpy array back."""
    if type(value).__module__ != "numpy" or type(value).__name__ != "ndarray":
        return None
    before = value.copy()

    def undo() -> bool:
        if value.tobytes() == before.tobytes():
            return False
        value[...] = before
        return True

    return undo


def _contents(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []  # not filled yet


def _cell(cell: CellType) -> Undo:
    before = _contents(cell)

    def undo() -> bool:
        if not before or cell.cell_contents is before[0]:
            return False
        cell.cell_contents = before[0]
        return True

    return undo


def _slots(value: Any) -> list[str]:
    names = [s for kind in type(value).__mro__ for s in _listed(kind.__dict__.get("__slots__", ()))]
    return [s for s in names if s not in ("__dict__", "__weakref__") and hasattr(value, s)]


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _slot(value: Any, slot: str) -> Undo:
    before = getattr(value, slot)

    def undo() -> bool:
        if getattr(value, slot, None) is before:
            return False
        object.__setattr__(value, slot, before)
        return True

    return undo


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
