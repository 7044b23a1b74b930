"""What a graph holds as it was: attributes, globals and containers that the model's Python read.

A graph is made of one run of that Python. A value that was read then is in the graph, and setting
another later has no effect on it. So what could have been read is remembered, and a call after a
change is refused.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from analogize.errors import CaptureError

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_INTERNAL = frozenset(vars(nn.Module())) | frozenset(vars(fx.GraphModule(nn.Module(), fx.Graph())))
# Whose objects hold caches, and references to anything.
_FOREIGN = ("torch", "numpy")
# Whose globals are theirs, caches among them.
_LIBRARIES = sys.stdlib_module_names - {"__main__"} | {"torch", "numpy", "analogize"}
_DEEPEST = 6
_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass
class Noticed:
    """What code ran while a model was traced.

    Attributes:
        words: what it asked or set of global modes.
        names: the names that it looks up, of attributes and of globals.
        outside: plain values that are no module's: what holds them, and by which name.
    """

    words: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    outside: dict[tuple[int, str], tuple[Any, str]] = field(default_factory=dict)
    _codes: set[CodeType] = field(default_factory=set)

    def asked_by(self, kind: type) -> set[str]:
        """The names that methods of a class look up."""
        found: set[str] = set()
        for base in kind.__mro__:
            for member in vars(base).values():
                if isinstance(member, FunctionType) and member.__code__ in self._codes:
                    found |= set(member.__code__.co_names)
        return found

    def ran(self, frame: FrameType) -> None:
        """Note a frame of the user's Python."""
        code = frame.f_code
        library = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if code in self._codes or library in _LIBRARIES:
            return
        self._codes.add(code)
        self.names |= set(code.co_names)
        for name in code.co_names:
            if name in frame.f_globals and _is_data(frame.f_globals[name]):
                self.outside[id(frame.f_globals), name] = frame.f_globals, name
        for name in code.co_freevars:
            value = frame.f_locals.get(name)
            if isinstance(value, list | dict):
                self.outside[id(value), name] = {name: value}, name


class Frozen:
    """The values that a graph holds as they were, and where each was read."""

    def __init__(
        self, root: nn.Module, kind: type, dissolved: Iterable[str], noticed: Noticed
    ) -> None:
        """Remember what is there now.

        Args:
            root: the graph.
            kind: the class that it was traced from.
            dissolved: the modules that the graph computes.
            noticed: what ran.
        """
        self._asked = frozenset(noticed.names)
        self._members: list[tuple[nn.Module, str, str, Any]] = []
        kinds = {"": kind} | {path: type(root.get_submodule(path)) for path in dissolved}
        for path, each in kinds.items():
            module = root.get_submodule(path)
            for name in _names(module, each, noticed):
                where = f"{path}.{name}".lstrip(".")
                self._members.append((module, name, where, self._held(module, name)))
        self._outside = [
            (held, name, self._print(held[name])) for held, name in noticed.outside.values()
        ]
        self._outside += [
            (_Class(kind), name, self._print(value))
            for top in dict.fromkeys(kinds.values())
            for kind in top.__mro__
            if kind.__module__.partition(".")[0] not in ("torch", "builtins")
            for name, value in list(vars(kind).items())
            if name in noticed.names and _is_data(value)
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin._members = copy.deepcopy(self._members, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # Globals and classes of this process are none of another's.
        return {"_asked": self._asked, "_members": self._members, "_outside": []}

    def refuse(self, module: nn.Module, name: str, value: Any) -> None:
        """Refuse to set an attribute of ``module`` to another value than the graph holds.

        Raises:
            CaptureError: with its name.
        """
        for owner, known, where, before in self._members:
            if owner is module and known == name and self._print(value) != before:
                raise changed(where)

    def require_unchanged(self) -> None:
        """Refuse to run a graph that holds other values than those that are set now.

        Raises:
            CaptureError: with the name of what was changed.
        """
        for module, name, where, before in self._members:
            if self._held(module, name) != before:
                raise changed(where)
        for held, name, before in self._outside:
            if self._print(held.get(name)) != before:
                raise changed(name)

    def _held(self, module: nn.Module, name: str) -> Any:
        return self._print(module.__dict__[name]) if name in module.__dict__ else None

    def _print(self, value: Any, depth: int = 0) -> Any:
        """Something that is equal while ``value`` is, as far as anyone looked."""
        if isinstance(value, _ATOMS):
            return type(value), value
        if depth > _DEEPEST or isinstance(value, Tensor | nn.Module | type | ModuleType):
            return _Same(value)
        inside = depth + 1
        if isinstance(value, list | tuple):
            return type(value), tuple(self._print(v, inside) for v in value)
        if isinstance(value, dict):
            items = value.items()
            return dict, tuple((self._print(k, inside), self._print(v, inside)) for k, v in items)
        if isinstance(value, set | frozenset):
            return set, frozenset(v if isinstance(v, _ATOMS) else _Same(v) for v in value)
        foreign = type(value).__module__.partition(".")[0] in _FOREIGN
        function = isinstance(value, FunctionType | MethodType)
        if function or foreign or not hasattr(value, "__dict__"):
            return _Same(value)
        members = {k: v for k, v in vars(value).items() if k in self._asked}
        return type(value), self._print(members, inside)


def changed(where: str) -> CaptureError:
    """Why a value that a graph holds cannot be set."""
    return CaptureError(
        f"'{where}' is another than when the model was captured, and its graph (capture='fx') "
        "holds it as it was: set it before analogize(), or use capture='hierarchical', which keeps "
        "the model's Python"
    )


def _names(module: nn.Module, kind: type, noticed: Noticed) -> list[str]:
    """The attributes that Python could have read, whether they are there or not."""
    known = {name for table in _TABLES for name in module.__dict__[table]}
    there = [name for name in vars(module) if name not in _INTERNAL and name not in known]
    if kind.__module__.partition(".")[0] == "torch":
        asked = set(there)
    else:
        asked = noticed.names
        there += [n for n in noticed.asked_by(kind) if not hasattr(kind, n) and n not in known]
    found = sorted({name for name in there if name in asked})
    return [n for n in found if not n.startswith("_analog") and n not in (*_INTERNAL, "report")]


class _Class:
    def __init__(self, kind: type) -> None:
        self._kind = kind

    def get(self, name: str) -> Any:
        return vars(self._kind).get(name)


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal to the very same object alone; copied along with it."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _is_data(value: Any) -> bool:
    return isinstance(value, (*_ATOMS, list, dict, tuple, set))
