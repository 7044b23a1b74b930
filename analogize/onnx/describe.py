"""An analog operator as constants for the file and as a region of the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analogize.chip import weight_of
from analogize.converter import Converter
from analogize.devices.tiles import count
from analogize.errors import CalibrationError, ExportError
from analogize.onnx import manifest
from analogize.onnx.body import Array
from analogize.onnx.noise import RuntimeNoise, plan_noise
from analogize.onnx.storage import Stored, WeightStorage, digest, store
from analogize.ops import AnalogOp
from analogize.product import BatchedLinear, Convolution, per_channel
from analogize.targets.spec import FixedSNRNoise, GaussianNoise

_CHANNELS_AT_ONCE = 1024
NoiseKind = Literal["none", "runtime", "programmed"]


@dataclass(frozen=True)
class RegionPlan:
    """What one region needs in the file.

    Attributes:
        id: unique name.
        owner: the region whose array it uses; its own id if it owns the array.
        op: the operator.
        stored: the weights as the file keeps them.
        kind: what of the noise goes into the file.
        noise: what the graph draws at every run.
        correction: what a programmed chip's output is multiplied by, viewed against it, or None.
        max_accumulator: bound on the accumulated codes of any conversion, or None.
    """

    id: str
    owner: str
    op: AnalogOp
    stored: Stored
    kind: NoiseKind
    noise: RuntimeNoise
    correction: Array | None
    max_accumulator: float | None


def plan_regions(
    model: nn.Module,
    operators: tuple[AnalogOp, ...],
    noise: NoiseKind,
    seed: int | None,
    storage: WeightStorage,
) -> tuple[RegionPlan, ...]:
    """Plan every region.

    Args:
        model: the rewritten model, which holds the weights.
        operators: its operators, in the order of the placeholders.
        noise: what of the weight noise goes into the file.
        seed: the chip to draw for ``"programmed"``, or None for the one programmed already.
        storage: how to keep the weights.

    Raises:
        CalibrationError: a converter has bits and no range.
        ChipError: ``"programmed"`` without seed, and no valid chip.
        ExportError: weights that are not float32.
    """
    owners: dict[int, str] = {}
    stored: dict[int, tuple[Tensor, Stored]] = {}
    plans: list[RegionPlan] = []
    names = _unique([op.region.name for op in operators])
    for name, op in zip(names, operators, strict=True):
        _require_exportable(op)
        key = id(op.array)
        owner = owners.setdefault(key, name)
        if key not in stored:
            weights = _weights(model, op, noise, seed)
            stored[key] = weights, store(weights, op, noise == "programmed", storage)
        weights, kept = stored[key]
        draws = noise == "runtime"
        correction = op.array.correction if noise == "programmed" and seed is None else None
        plans.append(
            RegionPlan(
                id=name,
                owner=owner,
                op=op,
                stored=kept,
                kind=noise,
                noise=plan_noise(op, weights, kept.transposed) if draws else RuntimeNoise(),
                correction=None if correction is None else correction.cpu().numpy(),
                max_accumulator=_bound(op, weights) if noise == "none" else None,
            )
        )
    return tuple(plans)


def _unique(names: list[str]) -> list[str]:
    """Regions with the same weight and other attributes share a name; number the later ones."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return result


def _require_exportable(op: AnalogOp) -> None:
    if not op.is_calibrated:
        raise CalibrationError(
            f"region '{op.region.name}' has a converter without a range; call "
            "calibrate(model, loader) before exporting"
        )


def _weights(model: nn.Module, op: AnalogOp, noise: NoiseKind, seed: int | None) -> Tensor:
    """The weights in array units, on the CPU; the digits of a chip that has tiles of them."""
    parameter = weight_of(model, op).detach()
    if parameter.dtype != torch.float32:
        raise ExportError(
            f"region '{op.region.name}': its weights are {parameter.dtype}, and the file's "
            "arithmetic is float32; call model.float() first"
        )
    array = op.array
    if noise != "programmed":
        return array.clean(parameter).cpu()
    chip = array.programmed(parameter) if seed is None else array.draw(parameter, seed)
    return (chip if op.tiles is not None else array.whole(chip)).cpu()


def _bound(op: AnalogOp, weights: Tensor) -> float | None:
    """The largest magnitude of any partial sum, where inputs and weights are integer codes.

    Whatever the order of summation, a partial sum lies between the sum of all negative and the sum
    of all positive products.
    """
    if op.dac.scale is None or op.array.scale is None or op.array.folded:
        return None
    high, low = max(float(op.dac.high), 0.0), max(-float(op.dac.low), 0.0)
    if op.tiles is None:
        return _largest(per_channel(op.product, weights), high, low)
    if op.tiles.input_bits is not None:
        digit = 2.0**op.tiles.input_bits - 1
        high, low = min(high, digit), min(low, digit)
    digits = weights.unsqueeze(0) if op.tiles.cell_bits is None else op.array.digits(weights)
    return max(
        _largest(per_channel(piece.product, piece.weights(digit)), high, low)
        for digit in digits
        for piece in op.tiles.pieces
    )


def _largest(channels: Tensor, high: float, low: float) -> float:
    """The largest sum of each channel's weights times inputs from ``-low`` to ``high``."""
    largest = 0.0
    # In parts, because copies of a whole layer may be large.
    for start in range(0, len(channels), _CHANNELS_AT_ONCE):
        rows = channels[start : start + _CHANNELS_AT_ONCE]
        positive = rows.clamp(min=0).sum(1, dtype=torch.float64)
        negative = rows.clamp(max=0).sum(1, dtype=torch.float64).neg()
        ends = (positive * high + negative * low, positive * low + negative * high)
        largest = max(largest, *(float(end.max()) for end in ends))
    return largest


def entry(
    plan: RegionPlan, calls: tuple[manifest.CallEntry, ...], exact: bool
) -> manifest.RegionEntry:
    """The region's entry in the manifest."""
    op = plan.op
    return manifest.RegionEntry(
        id=plan.id,
        kind=op.region.operator,  # type: ignore[arg-type]
        attributes=_attributes(op),
        bias=op.region.bias,
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
    low, high = int(dac.low), int(dac.high)
    return _converter(dac, _pair(dac.range), float(dac.scale), low, high)


def _adc(op: AnalogOp) -> manifest.ConverterEntry | None:
    adc, stages = op.adc, op._stages
    if adc.bits is None or stages.step is None or stages.y_scale is None:
        return None
    ends = None if adc.covers_all else _pair(adc.range)
    low, high = int(stages.y_low), int(stages.y_high)
    return _converter(adc, ends, _numbers(stages.y_scale), low, high, _numbers(stages.step))


def _converter(
    converter: Converter, ends: Any, scale: Any, low: int, high: int, step: Any = None
) -> manifest.ConverterEntry:
    assert converter.bits is not None
    return manifest.ConverterEntry(
        bits=converter.bits,
        grid=converter.kind,
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
        parameter=plan.op.region.weight,
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
        return tuple(int(v) for v in values.tolist())
    return int(values)


def _pair(ends: Tensor) -> Any:
    low, high = ends.tolist()
    return (tuple(low), tuple(high)) if isinstance(low, list) else (low, high)
