"""Copies of models that torch by itself refuses to copy."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy of ``model``.

    Weights that hooks compute are values of the last call, with its graph; the copy computes its
    own in the next one. Buffers without a shape stay without.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for buffer in module._buffers.values():
            if isinstance(buffer, UninitializedBuffer):
                likewise: Any = {"device": buffer.device, "dtype": buffer.dtype}
                memo[id(buffer)] = UninitializedBuffer(requires_grad=False, **likewise)
    return copy.deepcopy(model, memo)
