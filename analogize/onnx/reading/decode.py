"""Weights and scales of a file, compared with what its manifest says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from analogize.devices.slicing import combine
from analogize.errors import ExportError
from analogize.onnx.manifest import RegionEntry, WeightEntry, digest


def find_weight(
    entry: WeightEntry, tensors: dict[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    """A region's tensor: by its name, else an equal one that a tool has kept in its place."""
    if entry.initializer in tensors:
        return tensors[entry.initializer]
    shape = entry.shape[:-2] + entry.shape[:-3:-1] if entry.transposed else entry.shape
    for tensor in tensors.values():
        stored = onnx.TensorProto.DataType.Name(tensor.data_type)
        if stored != entry.storage or tuple(tensor.dims)[-len(shape) :] != shape:
            continue
        if digest(numpy_helper.to_array(tensor)) == entry.digest:
            return tensor
    return None


def decode(entry: WeightEntry, tensor: npt.NDArray[Any], source: str) -> npt.NDArray[np.float32]:
    """Weights in weight units from what the file keeps of them.

    Raises:
        ExportError: shape or codes are not what the manifest says.
    """
    if entry.transposed:
        tensor = tensor.swapaxes(-1, -2)
    shape = tensor.shape if entry.cell_bits is None else tensor.shape[1:]
    if tuple(shape) != entry.shape:
        raise ExportError(
            f"{source}: tensor '{entry.initializer}' has shape {tuple(shape)}, and the "
            f"manifest says {entry.shape}; graph and manifest disagree, export the model again"
        )
    values = tensor.astype(np.float32)
    if entry.cell_bits is not None:
        values = combine(torch.from_numpy(values), entry.cell_bits).numpy()
    if entry.zero_point is None:
        codes = values
        if entry.scale is None or entry.folded:
            return codes
    else:
        codes = values - _spread(entry.zero_point, entry)
        low, high = _spread(entry.low, entry), _spread(entry.high, entry)
        if bool(((codes < low) | (codes > high)).any()):
            raise ExportError(
                f"{source}: tensor '{entry.initializer}' holds codes beyond the manifest's low "
                "and high; graph and manifest disagree, export the model again"
            )
    return (codes * _spread(entry.scale, entry)).astype(np.float32)


def require_unchanged(entry: WeightEntry, tensor: npt.NDArray[Any], source: str) -> None:
    """Compare a region's weights with what the manifest says of them.

    Raises:
        ExportError: they were changed after the export.
    """
    if digest(tensor) != entry.digest:
        raise ExportError(
            f"{source}: tensor '{entry.initializer}' holds other numbers than those that were "
            "exported (its digest differs from the manifest's); graph and manifest disagree, "
            "export the model again"
        )


def require_same_scales(
    entry: RegionEntry, tensors: dict[str, onnx.TensorProto], source: str
) -> None:
    """Compare a region's converters with what the manifest says of them.

    Raises:
        ExportError: a scale was changed after the export.
    """
    dac, adc = entry.dac, entry.adc
    known = {
        "dac/scale": None if dac is None else dac.scale,
        "adc/y_scale": None if adc is None else adc.scale,
        "adc/step": None if adc is None else adc.step,
    }
    for name, value in known.items():
        tensor = tensors.get(f"{entry.id}/{name}")
        if tensor is None or value is None:
            continue
        found = numpy_helper.to_array(tensor).ravel()
        if not np.array_equal(found, np.asarray(value, np.float32).ravel()):
            raise ExportError(
                f"{source}: tensor '{tensor.name}' is {found[0]:g}, and the manifest says "
                f"{np.ravel(value)[0]:g}; graph and manifest disagree, export the model again"
            )


def _spread(values: Any, entry: WeightEntry) -> npt.NDArray[np.float32]:
    """Numbers, or numbers a channel, against the parameter's shape."""
    array = np.asarray(values, np.float32)
    if not array.ndim:
        return array
    if entry.channel_axis is None and array.size == np.prod(entry.shape[:-1]):
        return array.reshape(*entry.shape[:-1], 1)
    if entry.channel_axis is None:
        groups = array.size // entry.shape[1]
        rows = np.repeat(array.reshape(groups, -1), entry.shape[0] // groups, axis=0)
        return rows.reshape(entry.shape[0], -1, *[1] * (len(entry.shape) - 2))
    shape = [1] * len(entry.shape)
    shape[entry.channel_axis] = -1
    return array.reshape(shape)
