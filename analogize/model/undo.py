"""How to put single things back: attributes, containers, cells, tensors, random generators."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from types import CellType
from typing import Any

import torch
from torch import Tensor

# Puts one thing back; says whether it had changed, or what of it.
Undo = Callable[[], bool | str]


def own_undo(value: Any) -> Undo | None:
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
    return generator_undo(value) or _numbers(value)


def members_undo(members: dict[str, Any], name: str) -> list[tuple[str, Undo]]:
    """How to put attributes back, one by one, so that the one which changed can be named."""
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


def generator_undo(value: Any) -> Undo | None:
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


def contents(cell: CellType) -> list[Any]:
    """What a closure's cell holds, if anything yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []  # not filled yet


def _cell(cell: CellType) -> Undo:
    before = contents(cell)

    def undo() -> bool:
        if not before or cell.cell_contents is before[0]:
            return False
        cell.cell_contents = before[0]
        return True

    return undo


def slots(value: Any) -> list[str]:
    """The names of attributes that ``value`` keeps in slots."""
    names = [s for kind in type(value).__mro__ for s in _listed(kind.__dict__.get("__slots__", ()))]
    return [s for s in names if s not in ("__dict__", "__weakref__") and hasattr(value, s)]


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def slot_undo(value: Any, slot: str) -> Undo:
    """How to put the attribute back that ``value`` keeps in ``slot``."""
    before = getattr(value, slot)

    def undo() -> bool:
        if getattr(value, slot, None) is before:
            return False
        object.__setattr__(value, slot, before)
        return True

    return undo
