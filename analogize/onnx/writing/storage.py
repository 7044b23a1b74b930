"""How the file keeps weights: INT4, UINT8 or INT16 codes, or float32 values.

8-bit codes are unsigned with a zero point of 128, never signed: on processors with AVX2 and no
VNNI, onnxruntime's signed kernels saturate their 16-bit intermediate sums, its unsigned do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
from torch import Tensor

from analogize.crossbar.ops import AnalogOp
from analogize.onnx.manifest import Arithmetic
from analogize.product import BatchedLinear, Convolution

WeightStorage = Literal["auto", "int8", "float"]

_NUMPY: dict[str, Any] = {
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "FLOAT": np.float32,
}
_WIDTHS = {"INT4": 4, "UINT4": 4, "UINT8": 8, "INT16": 16, "UINT16": 16}
_LIMITS = {
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    "UINT8": (0, 255),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT16": (0, 2**16 - 1),
}


@dataclass(frozen=True)
class Stored:
    """Weights as the file keeps them.

    Attributes:
        values: codes plus zero point, or float values; transposed for a linear operator.
        storage: the ONNX type's name.
        transposed: whether the last two dimensions are the parameter's, exchanged.
        zero_point: of ``values``' dtype, 0-d or one a channel; None where values are no codes.
        scale: what dequantizing multiplies by: 1 for codes, the grid's step where the array works
            in weight units; 0-d or one a channel.
        axis: the channel axis of ``values``, or None where one zero point and scale serve all.
        spread: standard deviation of the weights in weight units.
        has_digits: whether ``values`` are the digits of a chip's cells, along a first dimension.
    """

    values: npt.NDArray[Any]
    storage: str
    transposed: bool
    zero_point: npt.NDArray[Any] | None
    scale: npt.NDArray[np.float32]
    axis: int | None
    spread: float
    has_digits: bool = False

    @property
    def zero_point_numbers(self) -> int | tuple[int, ...] | None:
        """The zero point as plain integers."""
        if self.zero_point is None:
            return None
        if self.zero_point.ndim == 0:
            return int(self.zero_point)
        return tuple(int(z) for z in self.zero_point)


def code_widths(opset: int, arithmetic: Arithmetic) -> tuple[int, ...]:
    """Bits of the types that a file may keep codes in; none in plain arithmetic."""
    if arithmetic == "plain":
        return ()
    return (4, 8, 16) if opset >= 21 else (8,)


def store(
    weights: Tensor, op: AnalogOp, programmed: bool, wanted: WeightStorage, widths: tuple[int, ...]
) -> Stored:
    """Choose a type for ``weights``, given in array units, and convert them."""
    array = op.array
    transposed = not isinstance(op.product, Convolution) and len(array.shape) > 1
    has_digits = weights.ndim > len(array.shape)
    values = weights.mT if transposed else weights
    one = np.array(1, np.float32)
    whole = array.whole(weights) if has_digits else weights
    spread = float(whole.float().std(correction=0))
    if array.output_scale is not None and array.scale is not None and array.scale.ndim == 0:
        spread *= float(array.scale)
    axis = _channel_axis(op, values.ndim)
    # Contiguous here, so that nobody needs another copy to write them.
    floats = np.ascontiguousarray(values.numpy())
    plain = Stored(floats, "FLOAT", transposed, None, one, None, spread, has_digits)
    if programmed or wanted == "float" or array.scale is None or array.bits is None:
        return plain
    if array.folded and array.scale.ndim and axis is None:
        return plain
    scale = array.scale.cpu().numpy() if array.folded else one
    codes = floats
    if array.folded:
        codes = np.rint(codes / _along(scale, axis, codes.ndim))
    low, high = _bounds(array.low), _bounds(array.high)
    kind, zero = _choose(low, high, array.bits, wanted, axis, widths)
    if kind is None:
        return plain
    shifted = codes + _along(zero.astype(np.float32), axis, codes.ndim)
    dtype = _NUMPY[kind]
    if scale.ndim and not zero.ndim:
        zero = np.full(scale.shape, zero)
    if zero.ndim and not scale.ndim:
        scale = np.ones(zero.shape, np.float32)
    return Stored(
        shifted.astype(np.int32).astype(dtype),
        kind,
        transposed,
        zero.astype(np.int32).astype(dtype),
        scale,
        axis if zero.ndim else None,
        spread,
    )


def _channel_axis(op: AnalogOp, ndim: int) -> int | None:
    """The axis of the stored tensor along which output channels lie, if there is one."""
    if isinstance(op.product, Convolution):
        if not op.product.transposed:
            return 0
        return 1 if op.product.groups == 1 else None
    if isinstance(op.product, BatchedLinear):
        return None
    return 1 if ndim == 2 else None


def _bounds(bound: Any) -> npt.NDArray[np.int64]:
    values = bound.cpu().numpy() if isinstance(bound, Tensor) else np.array(bound)
    return values.astype(np.int64)


def _choose(
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    bits: int,
    wanted: WeightStorage,
    axis: int | None,
    widths: tuple[int, ...],
) -> tuple[str | None, npt.NDArray[np.int64]]:
    """The type that holds codes from ``low`` to ``high``, and the zero point."""
    none = np.array(0, np.int64)
    if bits <= 4 and wanted == "auto" and 4 in widths:
        candidates: tuple[tuple[str, Any], ...] = (("INT4", none), ("UINT4", -low))
    elif bits <= 8:
        candidates = (("UINT8", none + 128), ("UINT8", -low), ("INT16", none))
    else:
        candidates = (("INT16", none), ("UINT16", -low))
    # Codes of a channel may reach 2^bits either way, which one more type always holds.
    for kind, zero in (*candidates, ("UINT8", none + 128), ("INT16", none)):
        first, last = _LIMITS[kind]
        if (zero.ndim and axis is None) or _WIDTHS[kind] not in widths:
            continue
        if (low + zero).min() >= first and (high + zero).max() <= last:
            return kind, zero
    return None, none


def _along(values: npt.NDArray[Any], axis: int | None, ndim: int) -> npt.NDArray[Any]:
    if not values.ndim or axis is None:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
