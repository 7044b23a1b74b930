"""What is told of each analog region, in words: its converters, weights, noise and tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analogize.crossbar.array import WeightArray
from analogize.crossbar.converter import Converter
from analogize.crossbar.located import Located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.region import Region
from analogize.devices.tiles import count
from analogize.model.sharding import is_sharded


@dataclass(frozen=True)
class RegionRow:
    """One analog region as the summary shows it.

    Attributes:
        region: name, operator, shapes and work.
        weights: bits and range of the weights.
        dac: bits and range of the input converter.
        adc: bits and range of the output converter.
        noise: the noise models, in words.
        tiles: crossbar tiles the weight matrix occupies, or None without an array size.
        utilization: share of those tiles' cells that hold a weight, or None.
        shares_array_with: name of the region that owns the array, or None if this one does.
        fill: root mean square of the clipped weights over the end of the range, which the ratio of
            signal to noise is proportional to; None without a range.
        clipped: share of the weights at or beyond an end of the range, or None.
        waits: whether calibration brought nothing but zeros, so that a converter has no range.
    """

    region: Region
    weights: str
    dac: str
    adc: str
    noise: str
    tiles: int | None
    utilization: float | None
    shares_array_with: str | None
    fill: float | None = None
    clipped: float | None = None
    waits: bool = False


def region_rows(ops: Sequence[Located]) -> tuple[RegionRow, ...]:
    """One row an operator, in order; the first to use an array owns it."""
    owners: dict[int, str] = {}
    return tuple(_row(found.op, found.region, owners) for found in ops)


def _row(op: AnalogOp, region: Region, owners: dict[int, str]) -> RegionRow:
    owner = owners.setdefault(id(op.array.home), region.name)
    tiles, utilization = _tiling(op)
    fill, clipped = _filling(op)
    return RegionRow(
        region=region,
        weights=_weights(op.array),
        dac=_converter(op.dac),
        adc=_converter(op.adc),
        noise=" + ".join(map(str, op.array.noise)) or "none",
        tiles=tiles,
        utilization=utilization,
        shares_array_with=None if owner == region.name else owner,
        fill=fill,
        clipped=clipped,
        waits=op.dac.waits or op.adc.waits,
    )


def _tiling(op: AnalogOp) -> tuple[int | None, float | None]:
    size = op.tile_size
    if size is None:
        return None, None
    groups, rows, columns = op.product.matrix(op.array.shape)
    tiles = count(op.product, op.array.shape, size.rows, size.cols) * op.array.cells_a_weight
    held = groups * rows * columns * op.array.cells_a_weight
    return tiles, held / (tiles * size.rows * size.cols)


@torch.no_grad()
def _filling(op: AnalogOp) -> tuple[float | None, float | None]:
    limits, weight = op.array.limits, op.stored.value()
    if limits is None or weight.is_meta or is_sharded(weight) or weight.shape != op.array.shape:
        return None, None
    low, high = (torch.as_tensor(end, device=weight.device) for end in limits)
    end = torch.maximum(low.abs(), high.abs())
    share = torch.minimum(torch.maximum(weight, low), high).float() / end
    outside = (weight <= low) | (weight >= high)
    return float(share.square().mean().sqrt()), float(outside.float().mean())


def _weights(array: WeightArray) -> str:
    if not array.clips:
        return "as they are"
    bits = "" if array.bits is None else f"{array.bits} b "
    if array.range.ndim > 1:
        return f"{bits}{array.range.shape[1]} channels"
    low, high = array.range.tolist()
    ends = f"±{high:.3g}" if low == -high else f"[{low:.3g}, {high:.3g}]"
    return f"{bits}{ends}"


def _converter(converter: Converter) -> str:
    if converter.bits is None:
        return "-"
    if converter.scale is None and not converter.covers_all and not converter.waits:
        return f"{converter.bits} b, uncalibrated"
    return f"{converter.bits} b {converter.described}"
