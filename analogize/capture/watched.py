"""Weights of analog layers that a model's Python reads itself, where no example showed it.

Whoever reads the weight of a layer and multiplies by it computes digitally, past the operator that
the layer became. A run of example inputs finds such uses, in the branches that it takes; elsewhere
the layers' weights are handed out, while a forward of the model runs, as stand-ins: the weight
itself for everything but a product with something else than weights, which is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.nn import functional as F

from analogize.capture.first_call import is_looking, looked_at, refusal
from analogize.capture.idle import is_idle, mark
from analogize.capture.leaf import layer_methods, own_methods, subclass
from analogize.model.one_pass import called_as_one_pass, leave_to_python
from analogize.passes.signature import DISTANCES, PRODUCTS, RULES

logger = logging.getLogger("analogize")

# Whether a forward of a watched model runs, and no operator's own arithmetic in it.
_READING: ContextVar[bool] = ContextVar("reading", default=False)


class StandIn(Tensor):
    """A weight for everything but products with activations.

    Attributes:
        weight: the tensor it stands for, which every function gets.
        path: the layer's name.
    """

    weight: Tensor
    path: str

    @classmethod
    def of(cls, weight: Tensor, path: str) -> StandIn:
        """A stand-in for ``weight``."""
        made: StandIn = Tensor._make_subclass(cls, weight.detach())
        made.weight, made.path = weight, path
        made._is_param = isinstance(weight, nn.Parameter)
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run ``func`` on the weights themselves.

        Raises:
            CaptureError: it is a product with an activation.
        """
        kwargs = kwargs or {}
        known: list[StandIn] = []
        others: list[Tensor] = []
        real, named = (_without(v, known, others) for v in (args, kwargs))
        if others and (func in _COMPUTE or func in RULES):
            raise refusal(known[0].path, getattr(func, "__name__", str(func)))
        if known and func in _TO_PYTHON and known[0].ndim > 1 and is_looking():
            _tell(known[0].path)
        result = func(*real, **named)
        if others or not known:
            return result
        return _with(result, known[0])


_COMPUTE = {*PRODUCTS, *DISTANCES, F.multi_head_attention_forward}

# What is computed with their results is out of torch's sight.
_TO_PYTHON = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


def _tell(path: str) -> None:
    logger.warning(
        "the model's Python takes the weight of '%s' out of torch: what it multiplies by that is "
        "digital",
        path,
    )


def _without(value: Any, known: list[StandIn], others: list[Tensor]) -> Any:
    """``value`` with weights for their stand-ins, which are noted, as other tensors are."""
    if isinstance(value, StandIn):
        known.append(value)
        return value.weight
    if isinstance(value, Tensor):
        others.append(value)
        return value
    if type(value) in (list, tuple):
        return type(value)(_without(v, known, others) for v in value)
    if type(value) is dict:
        return {k: _without(v, known, others) for k, v in value.items()}
    return value


def _with(result: Any, like: StandIn) -> Any:
    """What is computed from weights alone is a weight."""
    if isinstance(result, Tensor) and result.is_floating_point():
        return like if result is like.weight else StandIn.of(result, like.path)
    if type(result) in (list, tuple):
        return type(result)(_with(r, like) for r in result)
    return result


def watch(model: nn.Module, layers: list[nn.Module], idle: list[str]) -> None:
    """Watch the weights of ``layers`` in every forward of ``model`` and of what is around them.

    Args:
        model: the rewritten model.
        layers: its layers and embeddings that no known use of their weight passes by.
        idle: names of matrices of no layer, which nothing is multiplied by as far as is known.
    """
    mine = {id(layer) for layer in layers}
    mark(model, idle)
    for name, module in list(model.named_modules()):
        if "_analog_scope" in module.__dict__:
            continue  # an interception follows what it reads
        if id(module) not in mine:
            if _only_calls(module):
                continue
            if any(id(inside) in mine or is_idle(inside) for inside in module.modules()):
                module.__class__ = reading_class(type(module))
            continue
        module.__dict__["_analog_path"] = name or "weight"
        module.__class__ = _watched(module)


def _only_calls(module: nn.Module) -> bool:
    """Whether its Python does nothing but call the modules inside, which are watched themselves.

    torch.compile makes one graph of a Sequential's calls, which a forward of another class parts.
    """
    kind = type(module)
    return kind.forward is nn.Sequential.forward and not own_methods(kind)


def _watched(module: nn.Module) -> type[nn.Module]:
    if type(module) is nn.Embedding:
        return lookup_class(nn.Embedding)
    origin: type[nn.Module] = type(module)._analog_origin()[0]  # type: ignore[attr-defined]
    return (watched_class if "weight" in module._parameters else computed_class)(origin)


def watched_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class of an analog layer whose weight is a parameter."""
    members = {**_layer_methods(original), "__getattr__": _reader(original)}
    return subclass(original, members, watched_class)


def lookup_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class of an embedding."""
    members = {"forward": _unwatching(original.forward), "__getattr__": _reader(original)}
    members["__call__"] = _unwatching(original.__call__)
    return subclass(original, members, lookup_class)


def _reader(original: type[nn.Module]) -> Callable[[Any, str], Any]:
    def read(self: Any, name: str) -> Any:
        return _handed_out(self, name, original.__getattr__(self, name))

    return read


def computed_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class of an analog layer whose weight a parametrization or a hook computes."""
    known: Any = getattr(original, "weight", None)

    def read(self: Any) -> Any:
        if isinstance(known, property):
            return _handed_out(self, "weight", known.__get__(self))
        if "weight" not in self.__dict__:
            raise AttributeError("weight")
        return _handed_out(self, "weight", self.__dict__["weight"])

    def write(self: Any, value: Any) -> None:
        if isinstance(known, property):
            known.__set__(self, value)
        else:
            self.__dict__["weight"] = value

    def delete(self: Any) -> None:
        self.__dict__.pop("weight", None)

    members = {**_layer_methods(original), "weight": property(read, write, delete)}
    return subclass(original, members, computed_class)


def _handed_out(layer: Any, name: str, value: Any) -> Any:
    if name != "weight" or torch.compiler.is_compiling() or not _READING.get():
        return value
    if type(value) not in (Tensor, nn.Parameter):
        return value  # a shard of a weight, which its strategy reads and nothing multiplies by
    return StandIn.of(value, layer.__dict__["_analog_path"])


def _layer_methods(original: type[nn.Module]) -> dict[str, Any]:
    methods = layer_methods(original)
    # Hooks and what replaces a forward, such as accelerate's, read the weights themselves.
    methods["__call__"] = _unwatching(original.__call__)
    return {**methods, "forward": _unwatching(methods["forward"])}


def _unwatching(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _READING.get():
            return function(self, *args, **kwargs)
        # As unwatched() does, without a generator: every layer passes by here.
        token = _READING.set(False)
        try:
            return function(self, *args, **kwargs)
        finally:
            _READING.reset(token)

    return forward


@contextmanager
def reading() -> Iterator[None]:
    """In the block watched weights are handed out as stand-ins."""
    token = _READING.set(True)
    try:
        yield
    finally:
        _READING.reset(token)


@contextmanager
def unwatched() -> Iterator[None]:
    """In the block weights are read as they are."""
    token = _READING.set(False)
    try:
        yield
    finally:
        _READING.reset(token)


def reading_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class of a module around watched layers: its calls and own methods are forwards."""
    members = {name: _reading(function) for name, function in own_methods(original).items()}
    members["forward"] = _reading(original.forward)
    members["__call__"] = _reading(original.__call__)
    return subclass(original, members, reading_class)


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _READING.get():
            return function(self, *args, **kwargs)
        # No generator of a context's: torch.compile, which passes by here, takes none.
        token = _READING.set(True)
        try:
            looks = None
            if get_eval_frame_callback() is None:
                looks = looked_at(self, function.__name__, args, kwargs, _READING.get)
            if looks is None:
                return called_as_one_pass(partial(function, self), self, *args, **kwargs)
            with looks:
                return called_as_one_pass(partial(function, self), self, *args, **kwargs)
        finally:
            _READING.reset(token)

    leave_to_python(method, with_callees=False)
    return method
