"""The stock products of torch.nn.functional and how their arguments are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import wrap_torch_function


@wrap_torch_function(lambda x, weight: (x, weight))
def batched_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.mT``: shapes (..., T, K) and (*batch, N, K); returns (..., T, N)."""
    return torch.matmul(x, weight.mT)


@dataclass(frozen=True)
class Signature:
    """A product's name in targets, its spatial dimensions, and its parameters with defaults."""

    operator: str
    dimensions: int
    transposed: bool
    parameters: dict[str, Any]


_LINEAR = {"input": None, "weight": None, "bias": None}
_CONV = {**_LINEAR, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSE = {
    **_LINEAR,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "dilation": 1,
}

PRODUCTS: dict[Any, Signature] = {
    F.linear: Signature("linear", 0, False, _LINEAR),
    batched_linear: Signature("batched_linear", 0, False, {"input": None, "weight": None}),
    F.conv1d: Signature("conv1d", 1, False, _CONV),
    F.conv2d: Signature("conv2d", 2, False, _CONV),
    F.conv3d: Signature("conv3d", 3, False, _CONV),
    F.conv_transpose1d: Signature("conv_transpose1d", 1, True, _TRANSPOSE),
    F.conv_transpose2d: Signature("conv_transpose2d", 2, True, _TRANSPOSE),
    F.conv_transpose3d: Signature("conv_transpose3d", 3, True, _TRANSPOSE),
}


# What compares inputs with stored vectors: related to products, and none that an array computes.
DISTANCES = (F.cosine_similarity, F.pairwise_distance, torch.cdist)


# Operators that hold products, and how they are taken apart; see capture/composites.py.
RULES: dict[Callable[..., Any], Callable[..., Any]] = {}


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of a product's call by name, defaults filled in."""
    parameters = PRODUCTS[node.target].parameters
    positional = dict(zip(parameters, node.args, strict=False))
    return {**parameters, **positional, **node.kwargs}


def set_arguments(node: fx.Node, arguments: dict[str, Any]) -> None:
    """Write arguments back, all of them positional."""
    node.args, node.kwargs = tuple(arguments.values()), {}


def attribute(module: fx.GraphModule, name: str) -> Any:
    """What a get_attr node reads; None for a computed property, which may count its readings."""
    owner, _, last = name.rpartition(".")
    if is_parametrized(module.get_submodule(owner), last):
        return None
    return attrgetter(name)(module)


def shape_of(module: fx.GraphModule, weight: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that a get_attr node reads.

    Raises:
        ValueError: the weight is computed, so that its shape is not known here.
    """
    value = attribute(module, str(weight.target)) if weight.op == "get_attr" else None
    if not isinstance(value, Tensor):
        raise ValueError(f"node '{weight.name}' is computed; its kernel size is not known")
    return tuple(value.shape)


def expand(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """A number, or a one-tuple, as one value a spatial dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values
