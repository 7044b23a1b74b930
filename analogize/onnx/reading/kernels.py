"""The digital ONNX operators that ``load_onnx`` can run, on torch tensors.

Every function takes the node's inputs in order, None where one is left out, and its attributes by
name; an attribute that it does not know is refused when a file is loaded. Reference: the ONNX
operator specification, opsets 18 to 23.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.errors import ExportError
from analogize.onnx.reading import shaping, windows

_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
# Attributes that no function takes: the only value they may have, or None where any will do.
_FIXED: dict[str, Any] = {
    "auto_pad": "NOTSET",
    "kernel_shape": None,
    "momentum": None,
    "saturate": 1,
    "stash_type": 1,
    "storage_order": 0,
    "training_mode": 0,
}


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
) -> Tensor:
    """BatchNormalization with running statistics."""
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """InstanceNormalization."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """RMSNormalization."""
    return F.rms_norm(x, x.shape[axis:], scale.expand(x.shape[axis:]), epsilon)


def _limits(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "AveragePool": windows.average_pool,
    "BatchNormalization": batch_norm,
    "Cast": lambda x, *, to: x.to(_DTYPES[to]),
    "CastLike": lambda x, like: x.to(like.dtype),
    "Ceil": torch.ceil,
    "Clip": _limits,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "ConstantOfShape": shaping.constant_of_shape,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "Cos": torch.cos,
    "CumSum": shaping.cumulative_sum,
    "Div": _divide,
    "Dropout": lambda x, *_: x,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": shaping.expand,
    "Flatten": shaping.flatten,
    "Floor": torch.floor,
    "Gather": shaping.gather,
    "GatherElements": lambda x, index, *, axis=0: x.gather(axis, index % x.shape[axis]),
    "Gelu": lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (x * alpha + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": instance_norm,
    "IsNaN": torch.isnan,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": lambda x, *, axis=-1: torch.log_softmax(x, axis),
    "MatMul": torch.matmul,
    "Max": lambda *xs: functools.reduce(torch.maximum, xs),
    "MaxPool": windows.max_pool,
    "Min": lambda *xs: functools.reduce(torch.minimum, xs),
    "Mish": F.mish,
    "Mod": lambda a, b, *, fmod=0: torch.fmod(a, b) if fmod else torch.remainder(a, b),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Pad": shaping.pad,
    "Pow": torch.pow,
    "RMSNormalization": rms_norm,
    "Range": lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item()),
    "Reciprocal": torch.reciprocal,
    "ReduceL2": reduce(lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep)),
    "ReduceMax": reduce(torch.amax),
    "ReduceMean": reduce(torch.mean),
    "ReduceMin": reduce(torch.amin),
    "ReduceSum": reduce(torch.sum),
    "Relu": torch.relu,
    "Reshape": shaping.reshape,
    "Round": torch.round,
    "Shape": shaping.shape,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Size": lambda x: torch.tensor(x.numel()),
    "Slice": shaping.slice_,
    "Softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "Softplus": lambda x: F.softplus(x, threshold=float("inf")),
    "Split": shaping.split,
    "Sqrt": torch.sqrt,
    "Squeeze": shaping.squeeze,
    "Sub": torch.sub,
    "Sum": lambda *xs: functools.reduce(torch.add, xs),
    "Tanh": torch.tanh,
    "Tile": lambda x, repeats: x.repeat(repeats.tolist()),
    "Transpose": lambda x, *, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Trilu": shaping.trilu,
    "Unsqueeze": shaping.unsqueeze,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}


def bind(operator: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes that ``run`` needs.

    Raises:
        ExportError: an operator that cannot be run here, or not with these attributes.
    """
    function = OPERATORS.get(operator)
    if function is None:
        raise ExportError(f"load_onnx cannot run it; it runs {', '.join(OPERATORS)}")
    found = {}
    for name, value in attributes.items():
        if name in _parameters(function):
            found[name] = value
        elif name not in _FIXED:
            raise ExportError(f"load_onnx does not know its attribute {name}={value!r}")
        elif _FIXED[name] not in (None, value):
            raise ExportError(f"it has {name}={value!r}; load_onnx runs {_FIXED[name]!r} only")
    return found


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:
        # Torch's own functions: none of them stands for an operator with attributes.
        return frozenset()


def run(operator: str, attributes: dict[str, Any], *inputs: Any) -> Any:
    """Run one node; a function of its own, so that a graph of such calls copies and pickles.

    Raises:
        ExportError: inputs or attributes of the file that this operator cannot have.
    """
    try:
        return OPERATORS[operator](*inputs, **attributes)
    except Exception as cause:
        raise_unfit(cause, f"operator '{operator}'", inputs, f", {attributes}")


def raise_unfit(cause: Exception, what: str, inputs: Iterable[Any], more: str = "") -> NoReturn:
    """Say of what the file holds that it cannot run on these inputs.

    Raises:
        ExportError: so.
        Exception: ``cause`` itself, where it says nothing about the file.
    """
    # Subclasses are somebody's signals: no memory left, or a shape that a compiler must guard.
    if type(cause) not in _UNFIT:
        raise cause
    given = ", ".join(_shown(one) for one in inputs)
    reason = str(cause).strip().split("\n")[0]
    raise ExportError(f"the file's {what} cannot run on ({given}){more}: {reason}") from cause


_UNFIT = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
