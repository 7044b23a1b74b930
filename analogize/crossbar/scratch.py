"""Memory that a pass's operators use in turn, for what each needs for its product alone.

An operator's input codes are as large as its input, and of no use once the product is done. On a
CPU the allocator gives memory of that size back to the kernel, and every operator would have its
pages mapped and zeroed anew, which can take longer than the conversion itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from analogize.model import transforms
from analogize.model.one_pass import running_pass

# Smaller tensors lie in memory that the allocator keeps anyway.
_WORTH = 2**14


@contextmanager
def scratch(like: Tensor, dtype: torch.dtype) -> Iterator[Tensor | None]:
    """A tensor with the form of ``like``, to be overwritten and not used after the block.

    It lives as long as the forward or backward pass, and blocks one after the other are given the
    same memory. Yields None where there is no pass, or where something may look at the tensor
    later: autograd, a transform, a compiler or a mode.

    Args:
        like: what the form is of.
        dtype: what is needed; None is yielded where it is not that of ``like``.
    """
    kept = _kept() if _is_alone(like, dtype) else None
    if kept is None:
        yield None
        return
    # A pass may run in several threads at once.
    key = "scratch", threading.get_ident(), dtype, torch.is_inference_mode_enabled()
    # Taken, not shared: a call within the block finds none, and gets memory of its own.
    held: Tensor | None = kept.pop(key, None)
    if held is None or held.numel() < like.numel():
        held = torch.empty(like.numel(), dtype=dtype)
    try:
        yield held.as_strided(like.shape, like.stride())
    finally:
        kept[key] = held


def _kept() -> dict[Any, Any] | None:
    """What lives as long as the pass that runs; None where none does."""
    task = torch._C._current_graph_task_id()
    if task == -1:
        if _backward.task != -1:
            _backward.end()  # one that an error ended, whose callback never ran
        this = running_pass()
        return None if this is None else this.kept
    if _backward.task != task:
        _backward.task, _backward.kept = task, {}
        torch.autograd.Variable._execution_engine.queue_callback(_backward.end)
    return _backward.kept


class _Backward(threading.local):
    """What lives as long as the backward pass that this thread runs."""

    def __init__(self) -> None:
        self.task = -1
        self.kept: dict[Any, Any] = {}

    def end(self) -> None:
        """Let go of it."""
        self.task, self.kept = -1, {}


_backward = _Backward()


def _is_alone(like: Tensor, dtype: torch.dtype) -> bool:
    return (
        like.is_cpu
        and like.dtype == dtype
        and like.numel() >= _WORTH
        and type(like) in (Tensor, nn.Parameter)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch._C._len_torch_dispatch_stack()
        and not transforms.are_active()
        and _is_dense(like)
    )


def _is_dense(like: Tensor) -> bool:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    if like.is_contiguous():
        return True
    layout = layouts.get(like.ndim)
    return layout is not None and like.is_contiguous(memory_format=layout)
