"""The digital ONNX operators that ``load_onnx`` can run, on torch tensors.

Every function takes the node's inputs in order, None where one is left out, and its attributes by
name. Reference: the ONNX operator specification, opset 21.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_DTYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def _pads(x: Tensor, pads: Sequence[int] | None, value: float) -> Tensor:
    """Pad the spatial dimensions; ONNX lists all starts, then all ends."""
    if not pads or not any(pads):
        return x
    n = len(pads) // 2
    sides = [side for i in reversed(range(n)) for side in (pads[i], pads[n + i])]
    return F.pad(x, sides, value=value)


def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    **_: Any,
) -> Tensor:
    """Conv."""
    function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    n = x.ndim - 2
    padded = _pads(x, pads, 0.0)
    result: Tensor = function(
        padded, w, b, list(strides or [1] * n), 0, list(dilations or [1] * n), group
    )
    return result


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Gemm."""
    product = (a.t() if transA else a) @ (b.t() if transB else b)
    product = product * alpha if alpha != 1 else product
    return product if c is None else product + (c * beta if beta != 1 else c)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
    **_: Any,
) -> Tensor:
    """MaxPool, without indices."""
    n = len(kernel_shape)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    padded = _pads(x, pads, float("-inf"))
    steps, spread = list(strides or [1] * n), list(dilations or [1] * n)
    return function(padded, list(kernel_shape), steps, 0, spread, bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    count_include_pad: int = 0,
    ceil_mode: int = 0,
    **_: Any,
) -> Tensor:
    """AveragePool with symmetric padding."""
    n = len(kernel_shape)
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    padding = list(pads or [0] * 2 * n)[:n]
    steps = list(strides or [1] * n)
    return function(x, list(kernel_shape), steps, padding, bool(ceil_mode), bool(count_include_pad))


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


def reduce(
    function: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """A Reduce operator from a torch reduction over dimensions."""

    def run(
        x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Tensor:
        if axes is None and noop_with_empty_axes:
            return x
        dims = list(range(x.ndim)) if axes is None else axes.tolist()
        return function(x, dims, bool(keepdims))

    return run


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    **_: Any,
) -> Tensor:
    """LayerNormalization."""
    return F.layer_norm(x, x.shape[axis:], scale.expand(x.shape[axis:]), bias, epsilon)


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    **_: Any,
) -> Tensor:
    """BatchNormalization with running statistics."""
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _limits(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(a % rank for a in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    # Sizes of 1 keep the tensor's own, as ONNX has it and Tensor.expand has not.
    ones = torch.ones(shape.tolist(), dtype=x.dtype, device=x.device)
    return torch.logical_and(x, ones) if x.dtype == torch.bool else x * ones


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": lambda x, *, to, **_: x.to(_DTYPES[to]),
    "Clip": _limits,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": conv,
    "Cos": torch.cos,
    "Div": _divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": gather,
    "Gelu": lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "Greater": torch.gt,
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (x * alpha + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": lambda *xs: functools.reduce(torch.maximum, xs),
    "MaxPool": max_pool,
    "Min": lambda *xs: functools.reduce(torch.minimum, xs),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Pad": pad,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceMax": reduce(torch.amax),
    "ReduceMean": reduce(torch.mean),
    "ReduceSum": reduce(torch.sum),
    "Relu": torch.relu,
    "Reshape": reshape,
    "Round": torch.round,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Slice": slice_,
    "Softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "Split": split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, *, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}


def run(operator: str, attributes: dict[str, Any], *inputs: Any) -> Any:
    """Run one node; a function of its own, so that a graph of such calls copies and pickles."""
    return OPERATORS[operator](*inputs, **attributes)
