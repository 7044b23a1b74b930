"""Weights that are computed: how to get them from a model's parameters, without its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import get_testing_overrides


@dataclass(frozen=True, eq=False)
class Expression:
    """A tensor computed from parameters and buffers alone; equal keys compute equal tensors.

    Attributes:
        key: what is computed, in words, for example ``transpose(attn.in_proj_weight, 0, 1)``.
        names: the parameters and buffers it reads.
        function: what is called, or None for the parameter or buffer ``names[0]`` itself.
        args: its arguments, in which other expressions stand for tensors.
        kwargs: its named arguments, likewise.
        index: which of its results, or None where it returns a single one.
    """

    key: str
    names: tuple[str, ...]
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    index: int | None = None

    def evaluate(self, leaf: Callable[[str], Tensor]) -> Tensor:
        """The tensor that the parameters and buffers give now; differentiable.

        Args:
            leaf: gives the parameter or buffer of a name.
        """
        if self.function is None:
            return leaf(self.names[0])
        args = [_evaluated(a, leaf) for a in self.args]
        result = self.function(*args, **{k: _evaluated(v, leaf) for k, v in self.kwargs})
        value: Tensor = result if self.index is None else result[self.index]
        return value


# torch.compile can look a torch function up, but not read its name.
_NAMES = {f: f.__name__ for f in get_testing_overrides() if hasattr(f, "__name__")}


def leaf(name: str) -> Expression:
    """The parameter or buffer called ``name``."""
    return Expression(name, (name,))


def applied(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Expression:
    """``function`` of arguments among which at least one is an expression."""
    words = [_word(a) for a in args] + [f"{k}={_word(v)}" for k, v in kwargs.items()]
    name = function_name(function)
    found = dict.fromkeys(n for e in _expressions((args, tuple(kwargs.values()))) for n in e.names)
    # Masks of dropped connections differ between train() and eval(); the weights are the same.
    same = name in ("dropout", "contiguous", "clone")
    key = words[0] if same else f"{name}({', '.join(words)})"
    return Expression(key, tuple(found), function, args, tuple(kwargs.items()))


def expanded(whole: Expression, sizes: tuple[int, ...]) -> Expression:
    """``whole`` repeated without copies; how often, along leading dimensions, is no difference."""
    words = [*("*" for _ in sizes[:-2]), *map(str, sizes[-2:])]
    key = f"expand({whole.key}, {', '.join(words)})"
    return Expression(key, whole.names, Tensor.expand, (whole, *sizes))


def item(whole: Expression, index: int) -> Expression:
    """One of the results of an expression that returns several."""
    return Expression(
        f"{whole.key}[{index}]", whole.names, whole.function, whole.args, whole.kwargs, index
    )


def function_name(function: Callable[..., Any]) -> str:
    """How a torch function is called; properties of tensors by the property's name."""
    if isinstance(function, Property):
        return function.name
    found = _NAMES.get(function)
    return str(getattr(function, "__name__", repr(function))) if found is None else found


@dataclass(frozen=True)
class Property:
    """Reads a tensor's property, such as ``T`` or ``mT``; unlike torch's own getter, it pickles."""

    name: str

    def __call__(self, tensor: Tensor) -> Any:
        """``tensor.name``."""
        return getattr(tensor, self.name)


def _evaluated(value: Any, leaf: Callable[[str], Tensor]) -> Any:
    if isinstance(value, Expression):
        return value.evaluate(leaf)
    if isinstance(value, list | tuple):
        return type(value)(_evaluated(v, leaf) for v in value)
    return value


def _word(value: Any) -> str:
    if isinstance(value, Expression):
        return value.key
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_word, value))})"
    return repr(value)


def _expressions(value: Any) -> list[Expression]:
    if isinstance(value, Expression):
        return [value]
    if isinstance(value, list | tuple):
        return [e for v in value for e in _expressions(v)]
    return []
