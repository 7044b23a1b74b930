"""What interception knows of torch's functions."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from analogize.model.expression import Property, function_name

# Functions that choose or rearrange elements, and so commute with programming them on a chip.
MOVES = frozenset(
    [
        "__getitem__",
        "select",
        "index_select",
        "narrow",
        "t",
        "T",
        "mT",
        "transpose",
        "permute",
        "reshape",
        "view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "chunk",
        "split",
        "unbind",
        "swapaxes",
        "movedim",
        "to",
        "float",
    ]
)
_AUGMENTED = frozenset(f"__i{n}__" for n in ("add", "sub", "mul", "truediv", "pow", "mod"))
EXPANSIONS = frozenset(["expand", "expand_as", "broadcast_to"])
CHOICES = frozenset(["__getitem__", "index_select", "select"])


def writes(func: Any, kwargs: Any) -> bool:
    """Whether it writes to one of its arguments."""
    name = function_name(func)
    by_name = name.endswith("_") and not name.endswith("__")
    return by_name or name in _AUGMENTED or kwargs.get("out") is not None


def stable(func: Any) -> Any:
    """A function that pickles: torch's getters of properties do not."""
    owner = getattr(func, "__self__", None)
    if function_name(func) == "__get__" and owner is not None:
        return Property(owner.__name__)
    return func


def _body(function: Any) -> Any:
    """The Python of a torch function, without the check that would hand it back to the mode."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    world = {**function.__globals__, **dict.fromkeys(names, lambda *_: False)}
    body = FunctionType(function.__code__, world, function.__name__, function.__defaults__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


ATTENTION = _body(F.multi_head_attention_forward)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, at any depth of lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors(v)]
    return []
