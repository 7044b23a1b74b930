"""Stock Linear and Conv modules, rewritten in place: same object, hooks, names and Python type.

The module's class becomes a subclass of its own class, whose forward calls the analog operator
that was added as ``analog``. Subclasses with a forward of their own are not stock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isgeneratorfunction
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize.capture.functional import add_bias
from analogize.capture.scope import RUNNING, paused
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.pretrained import guard, is_guard
from analogize.errors import CaptureError
from analogize.passes.functionalize import output_padding_for
from analogize.product import Convolution, Linear, Product

_CONV: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


# One class for each, so that copies of a model have the same type.
_MADE: dict[Any, type[nn.Module]] = {}


def leaf_product(module: nn.Module) -> Product | None:
    """The product that a stock module computes; None where it is none."""
    if "forward" in module.__dict__:
        return None
    if isinstance(module, nn.Linear):
        return Linear() if type(module).forward is nn.Linear.forward else None
    for n, kind in enumerate(_CONV, 1):
        if isinstance(module, kind):
            stock = type(module).forward is kind.forward
            stock = stock and type(module)._conv_forward is kind._conv_forward
            return _convolution(module, n, False) if stock else None
    for n, kind in enumerate(_TRANSPOSED, 1):
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return _convolution(module, n, True)
    return None


def _convolution(module: Any, n: int, transposed: bool) -> Convolution:
    numbers = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    padding: tuple[int, ...] = module.padding if numbers else (0,) * n
    return Convolution(
        f"conv_transpose{n}d" if transposed else f"conv{n}d",
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        transposed=transposed,
        output_padding=module.output_padding,
        groups=module.groups,
    )


def rewrite_leaf(module: nn.Module, op: AnalogOp) -> None:
    """Make ``module`` call ``op``, one of its children, from now on."""
    (name,) = (n for n, child in module.named_children() if child is op)
    module.__class__ = _analog_class(type(module))
    if name != "analog":
        # The user has something of that name.
        module.__dict__["_analog_name"] = name


def is_rewritten(module: nn.Module) -> bool:
    """Whether ``module`` is a stock module that calls an analog operator."""
    return hasattr(type(module), "_analog_name")


def own_forward(module: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What a rewritten module computes with its operator, even one that has no effect."""
    transposed = isinstance(module, _TRANSPOSED)
    op = getattr(module, module._analog_name)
    return (_forward_transposed if transposed else _forward)(module, op, *args, **kwargs)


def _analog_class(original: type[nn.Module]) -> type[nn.Module]:
    return subclass(original, layer_methods(original), _analog_class)


def layer_methods(original: type[nn.Module]) -> dict[str, Any]:
    """What a stock module's class needs to call the operator that was added to it."""
    transposed = issubclass(original, _TRANSPOSED)
    own = _forward_transposed if transposed else _forward

    def compute(self: Any, op: AnalogOp, args: Any, kwargs: Any) -> Any:
        if op.is_digital:
            return op.digitally(original.forward, self, *args, **kwargs)
        return own(self, op, *args, **kwargs)

    @wraps(original.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        op = getattr(self, self._analog_name)
        if not torch.compiler.is_compiling() and RUNNING.get():
            # Of a model that intercepts weights, this one perhaps among them.
            with paused():
                return compute(self, op, args, kwargs)
        return compute(self, op, args, kwargs)

    members = {"forward": forward, "_analog_name": "analog"}
    if issubclass(original, (*_CONV, *_TRANSPOSED)):
        members["__setattr__"] = _setter(original)
    return members


# What an operator has taken from its convolution.
_GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode", "output_padding")


def _setter(original: type[nn.Module]) -> Callable[[Any, str, Any], None]:
    def put(self: Any, name: str, value: Any) -> None:
        if name in _GEOMETRY and value != getattr(self, name, value):
            raise CaptureError(
                f"'{name}' of this {original.__name__} is {getattr(self, name)!r} on its array, "
                f"and {value!r} would not be heeded: set it before analogize(), or replace the "
                "layer"
            )
        original.__setattr__(self, name, value)

    return put


# Whose classes hold no products of their own.
_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "lightning_fabric")


def own_methods(original: type[nn.Module]) -> dict[str, Any]:
    """The methods that the authors of a class wrote, and of the classes it derives from."""
    guard()
    found: dict[str, Any] = {}
    for kind in reversed(original.__mro__):
        if kind is object or kind.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for name, member in kind.__dict__.items():
            plain = isinstance(member, FunctionType) and not isgeneratorfunction(member)
            if not plain or is_guard(member):
                found.pop(name, None)
            elif not name.startswith("__") and name not in nn.Module.__dict__:
                found[name] = member
    return found


def subclass(
    original: type[nn.Module],
    methods: dict[str, Any],
    maker: Callable[[type[nn.Module]], type[nn.Module]],
) -> type[nn.Module]:
    """A subclass that looks like ``original``, has other ``methods``, and pickles by ``maker``."""
    guard()
    if (maker, original) in _MADE:
        return _MADE[maker, original]
    members = {
        **methods,
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": _reduce,
        "_analog_origin": staticmethod(lambda: (original, maker)),
    }
    made = type(original.__name__, (original,), members)
    return _MADE.setdefault((maker, original), made)


def _forward(self: Any, op: AnalogOp, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
    dimensions = getattr(op.product, "dimensions", 0)
    x = _padded(self, input) if dimensions else input
    return add_bias(op(x, self.weight), self.bias, dimensions)


def _padded(module: Any, x: Tensor) -> Tensor:
    """The input with every padding that is not the product's own."""
    if module.padding_mode != "zeros":
        return F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    if module.padding == "same":
        return F.pad(x, module._reversed_padding_repeated_twice)
    return x


def _forward_transposed(
    self: Any,
    op: AnalogOp,
    input: Tensor,  # noqa: A002 - torch's own name
    output_size: Any = None,
) -> Tensor:
    product: Any = op.product
    if output_size is None:
        return add_bias(op(input, self.weight), self.bias, product.dimensions)
    sizes = (product.stride, product.padding, self.kernel_size, product.dilation)
    padding = output_padding_for(input, output_size, *sizes)
    return add_bias(op(input, self.weight, padding), self.bias, product.dimensions)


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    return _blank, type(self)._analog_origin(), self.__getstate__()  # type: ignore[attr-defined, no-untyped-call]


def _blank(
    original: type[nn.Module], maker: Callable[[type[nn.Module]], type[nn.Module]]
) -> nn.Module:
    kind = maker(original)
    return kind.__new__(kind)
