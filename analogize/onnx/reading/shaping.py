"""ONNX operators that move numbers about, on torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 copies a dimension."""
    wanted = shape.tolist()
    return x.reshape([x.shape[i] if d == 0 and not allowzero else d for i, d in enumerate(wanted)])


def slice_(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice; a negative step walks backwards, and bounds beyond the tensor are its ends."""
    count = starts.numel()
    where = range(count) if axes is None else axes.tolist()
    strides = [1] * count if steps is None else steps.tolist()
    for axis, start, end, step in zip(where, starts.tolist(), ends.tolist(), strides, strict=True):
        size = x.shape[axis]
        least, most = (0, size) if step > 0 else (-1, size - 1)
        first = min(max(start + size if start < 0 else start, 0), most)
        last = min(max(end + size if end < 0 else end, least), most)
        if step == 1:
            x = x.narrow(axis, first, max(last - first, 0))
        else:
            index = torch.tensor(list(range(first, last, step)), dtype=torch.int64)
            x = x.index_select(axis, index.to(x.device))
    return x


def pad(
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Pad; reflect and edge on the trailing dimensions only."""
    amounts = pads.tolist()
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes.tolist()]
    sides = [(0, 0)] * x.ndim
    for index, axis in enumerate(where):
        sides[axis] = amounts[index], amounts[len(where) + index]
    first = next((i for i, s in enumerate(sides) if any(s)), x.ndim)
    flat = [v for side in reversed(sides[first:]) for v in side]
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if value is None else value.item())
    return F.pad(
        x, flat, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    )


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Gather."""
    axis %= x.ndim
    flat = x.index_select(axis, indices.flatten() % x.shape[axis])
    return flat.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 0
) -> tuple[Tensor, ...]:
    """Split."""
    if sizes is not None:
        return torch.split_with_sizes(x, sizes.tolist(), axis)
    return x.tensor_split(num_outputs, axis)


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze."""
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """Unsqueeze."""
    rank = x.ndim + axes.numel()
    for axis in sorted(a % rank for a in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Expand."""
    # Sizes of 1 keep the tensor's own, as ONNX has it and Tensor.expand has not.
    ones = torch.ones(shape.tolist(), dtype=x.dtype, device=x.device)
    return torch.logical_and(x, ones) if x.dtype == torch.bool else x * ones


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Shape."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten."""
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


def trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """Trilu."""
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if upper else x.tril(diagonal)


def constant_of_shape(size: Tensor, *, value: Tensor | None = None) -> Tensor:
    """ConstantOfShape."""
    fill = torch.zeros(1) if value is None else value
    return fill.expand(size.tolist()).clone()


def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """CumSum."""
    dim = int(axis)
    total = x.flip(dim).cumsum(dim).flip(dim) if reverse else x.cumsum(dim)
    return total - x if exclusive else total
