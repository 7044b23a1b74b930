"""A planned region as an entry of the manifest."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor

from analogize.crossbar.converter import Converter
from analogize.crossbar.ops import AnalogOp
from analogize.devices.tiles import count
from analogize.onnx import manifest
from analogize.onnx.manifest import digest
from analogize.onnx.writing.plan import RegionPlan
from analogize.product import BatchedLinear, Convolution
from analogize.targets.spec import FixedSNRNoise, GaussianNoise


def entry(
    plan: RegionPlan, calls: tuple[manifest.CallEntry, ...], exact: bool
) -> manifest.RegionEntry:
    """The region's entry in the manifest."""
    op = plan.op
    return manifest.RegionEntry(
        id=plan.id,
        kind=plan.region.operator,  # type: ignore[arg-type]
        attributes=_attributes(op),
        bias=plan.region.bias,
        dac=_dac(op),
        weight=_weight(plan),
        adc=_adc(op),
        noise=_noise(plan),
        tiles=_tiles(op),
        correction=None if plan.correction is None else _numbers(torch.tensor(plan.correction)),
        shares_array_with=None if plan.owner == plan.id else plan.owner,
        max_accumulator=plan.max_accumulator,
        exact=exact,
        calls=calls,
    )


def _attributes(op: AnalogOp) -> dict[str, int | tuple[int, ...]]:
    product = op.product
    if not isinstance(product, Convolution):
        return {}
    found: dict[str, int | tuple[int, ...]] = {
        "stride": product.stride,
        "padding": product.padding,
        "dilation": product.dilation,
        "groups": product.groups,
    }
    return found | {"output_padding": product.output_padding} if product.transposed else found


def _dac(op: AnalogOp) -> manifest.ConverterEntry | None:
    dac = op.dac
    if dac.bits is None or dac.scale is None:
        return None
    low, high = int(op._stages.x_low), int(op._stages.x_high)
    extent: manifest.Extent = "vector" if dac.follows_vectors else "tensor"
    return _converter(dac, extent, _pair(dac.range), float(dac.scale), low, high)


def _adc(op: AnalogOp) -> manifest.ConverterEntry | None:
    adc, stages = op.adc, op._stages
    if adc.bits is None or stages.step is None or stages.y_scale is None:
        return None
    ends = None if adc.covers_all else _pair(adc.range)
    low, high = _integers(stages.y_low), _integers(stages.y_high)
    extent: manifest.Extent = "tensor" if stages.shares is None else "array"
    if adc.range.ndim > 1:
        extent = "channel"
    scale, step = _numbers(stages.y_scale), _numbers(stages.step)
    return _converter(adc, extent, ends, scale, low, high, step)


def _converter(
    converter: Converter,
    extent: manifest.Extent,
    ends: Any,
    scale: Any,
    low: Any,
    high: Any,
    step: Any = None,
) -> manifest.ConverterEntry:
    assert converter.bits is not None
    return manifest.ConverterEntry(
        bits=converter.bits,
        grid=converter.kind,
        extent=extent,
        range=ends,
        scale=scale,
        low=low,
        high=high,
        step=step,
    )


def _weight(plan: RegionPlan) -> manifest.WeightEntry:
    array, stored = plan.op.array, plan.stored
    has_grid = array.scale is not None
    return manifest.WeightEntry(
        initializer=f"{plan.owner}/weight",
        parameter=plan.region.weight,
        shape=tuple(array.shape),
        transposed=stored.transposed,
        cell_bits=array.cell_bits if stored.has_digits else None,
        bits=array.bits,
        grid=array.kind,
        granularity="channel" if array.range.ndim > 1 else "tensor",
        channel_axis=_channel_axis(plan.op),
        range=_pair(array.range) if array.is_known else None,
        scale=_numbers(array.scale) if array.scale is not None else None,
        low=_integers(array.low) if has_grid else None,
        high=_integers(array.high) if has_grid else None,
        folded=array.folded,
        storage=stored.storage,
        digest=digest(stored.values),
        zero_point=stored.zero_point_numbers,
    )


def _channel_axis(op: AnalogOp) -> int | None:
    product = op.product
    if isinstance(product, BatchedLinear):
        return None
    if not isinstance(product, Convolution) or not product.transposed:
        return 0
    return 1 if product.groups == 1 else None


def _noise(plan: RegionPlan) -> manifest.NoiseEntry:
    array = plan.op.array
    return manifest.NoiseEntry(
        models=array.noise,
        sigma=tuple(_sigma(plan, model) for model in array.noise),
        conductance=array.conductance,
        exported=plan.kind,
    )


def _sigma(plan: RegionPlan, model: Any) -> Any:
    """Standard deviation in weight units; with a random level, the one of the mean level."""
    array = plan.op.array
    if isinstance(model, GaussianNoise):
        scale = 1.0 if array.scale is None else array.scale.double()
        if array.scale is None:
            width = (array.range[1] - array.range[0]).double()
        else:
            width = (torch.as_tensor(array.high) - torch.as_tensor(array.low)).double() * scale
        return _numbers((width * model.eta).float())
    return plan.stored.spread * model.ratio if isinstance(model, FixedSNRNoise) else None


def _tiles(op: AnalogOp) -> manifest.TileEntry:
    groups, rows, columns = op.product.matrix(op.array.shape)
    size, cells = op.tile_size, op.array.cells_a_weight
    if size is None:
        return manifest.TileEntry(groups=groups, rows=rows, columns=columns, tile=None, grid=None)
    return manifest.TileEntry(
        groups=groups,
        rows=rows,
        columns=columns,
        tile=(size.rows, size.cols),
        grid=(ceil(rows / size.rows), ceil(columns / size.cols)),
        count=count(op.product, op.array.shape, size.rows, size.cols) * cells,
        converts=size.tiling,
        sums=_sums(op, rows, size.rows),
        input_bits=size.input_bits,
        cell_bits=size.cell_bits,
        cells=cells,
    )


def _sums(op: AnalogOp, rows: int, height: int) -> tuple[manifest.SumEntry, ...]:
    if op.tiles is None:
        return ()
    return tuple(
        manifest.SumEntry(
            rows=(number * height, min((number + 1) * height, rows)),
            inputs=(piece.first, piece.last),
        )
        for number, piece in enumerate(op.tiles.pieces)
    )


def _numbers(values: Tensor) -> Any:
    """A float, or a tuple of them; viewed shapes are flattened."""
    return float(values) if values.ndim == 0 else tuple(values.flatten().tolist())


def _integers(values: Any) -> Any:
    if isinstance(values, Tensor) and values.ndim:
        return tuple(int(v) for v in values.flatten().tolist())
    return int(values)


def _pair(ends: Tensor) -> Any:
    low, high = ends.tolist()
    return (tuple(low), tuple(high)) if isinstance(low, list) else (low, high)
