"""ONNX operators over windows, on torch tensors: convolution and pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from analogize.errors import ExportError


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
) -> Tensor:
    """Conv."""
    function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    n = x.ndim - 2
    padded = _pads(x, pads, 0.0)
    result: Tensor = function(
        padded, w, b, list(strides or [1] * n), 0, list(dilations or [1] * n), group
    )
    return result


def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> Tensor:
    """ConvTranspose with symmetric padding."""
    function: Callable[..., Tensor] = (
        F.conv_transpose1d,
        F.conv_transpose2d,
        F.conv_transpose3d,
    )[x.ndim - 3]
    n = x.ndim - 2
    ones, zeros = [1] * n, [0] * n
    padding, extra = _symmetric(pads, n), list(output_padding or zeros)
    return function(x, w, b, list(strides or ones), padding, extra, group, list(dilations or ones))


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: int = 0,
) -> Tensor:
    """MaxPool, without indices."""
    n = len(kernel_shape)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    steps, spread = list(strides or [1] * n), list(dilations or [1] * n)
    if ceil_mode:
        # A window may not begin in the padding, which only the operator itself can know.
        return function(x, list(kernel_shape), steps, _symmetric(pads, n), spread, True)
    return function(_pads(x, pads, float("-inf")), list(kernel_shape), steps, 0, spread)


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    count_include_pad: int = 0,
    ceil_mode: int = 0,
) -> Tensor:
    """AveragePool with symmetric padding."""
    n = len(kernel_shape)
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    steps, padding = list(strides or [1] * n), _symmetric(pads, n)
    return function(x, list(kernel_shape), steps, padding, bool(ceil_mode), bool(count_include_pad))


def _symmetric(pads: Sequence[int] | None, n: int) -> list[int]:
    """The padding of each dimension, the same before and behind it."""
    ends = list(pads or [0] * 2 * n)
    if ends[:n] != ends[n:]:
        raise ExportError(
            f"pads {ends} differ before and behind, which load_onnx runs for Conv and for MaxPool "
            "without ceil_mode only; run this file in onnxruntime"
        )
    return ends[:n]
