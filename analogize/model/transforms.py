"""Transforms of torch.func and forward-mode differentiation, as code below them sees them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def are_active() -> bool:
    """Whether vmap, grad, jvp or their like run, or forward-mode differentiation does.

    Compiled code has them behind it already.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain(tensor: Tensor) -> Tensor | None:
    """The tensor in memory that transforms wrap; None where vmap maps over it, so it is several."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return None
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def outside(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """``function`` of ``tensor`` as it lies in memory, with no transform in sight, as a constant.

    Of several, which vmap maps over, ``function`` is computed inside.
    """
    if not are_active():
        return function(tensor)
    found = plain(tensor)
    if found is None:
        return function(tensor.detach())
    with disabled():
        return function(found).detach()


def disabled() -> AbstractContextManager[Any]:
    """In the block new tensors are plain ones, whatever transforms are active."""
    return torch._C._DisableFuncTorch() if are_active() else nullcontext()
