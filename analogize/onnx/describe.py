"""An analog operator as constants for the file and as a region of the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from analogize import noise as noise_models
from analogize.chip import weight_of
from analogize.converter import Converter
from analogize.errors import CalibrationError, ExportError
from analogize.onnx import manifest
from analogize.onnx.storage import Stored, WeightStorage, digest, store
from analogize.ops import AnalogOp
from analogize.product import BatchedLinear, Convolution, per_channel
from analogize.targets.spec import FixedSNRNoise, GaussianNoise

Array = npt.NDArray[Any]
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
        noise: what of the weight noise goes into the file.
        deviations: for each noise model drawn at run time, (sigma or span in array units, model).
        max_accumulator: bound on the accumulated codes, or None.
    """

    id: str
    owner: str
    op: AnalogOp
    stored: Stored
    noise: NoiseKind
    deviations: tuple[tuple[Array, Any], ...]
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
        plans.append(
            RegionPlan(
                id=name,
                owner=owner,
                op=op,
                stored=kept,
                noise=noise,
                deviations=_deviations(op, weights, kept) if noise == "runtime" else (),
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
    if op.tiles is not None or op.adc.covers_all:
        raise ExportError(
            f"region '{op.region.name}' converts the sums of its tiles one by one, which is not "
            "exported; use a target with array.tiling false and a calibrated ADC"
        )
    if not op.is_calibrated:
        raise CalibrationError(
            f"region '{op.region.name}' has a converter without a range; call "
            "calibrate(model, loader) before exporting"
        )


def _weights(model: nn.Module, op: AnalogOp, noise: NoiseKind, seed: int | None) -> Tensor:
    """The weights in array units, on the CPU."""
    parameter = weight_of(model, op).detach()
    if parameter.dtype != torch.float32:
        raise ExportError(
            f"region '{op.region.name}': its weights are {parameter.dtype}, and the file's "
            "arithmetic is float32; call model.float() first"
        )
    array = op.array
    if noise != "programmed":
        return array.clean(parameter).cpu()
    if seed is None:
        if array.correction is not None:
            raise ExportError(
                f"region '{op.region.name}': its chip was programmed with drift compensation, "
                "which is not exported; program it with compensation='none'"
            )
        return array.programmed(parameter).cpu()
    return array.draw(parameter, seed).cpu()


def _deviations(op: AnalogOp, weights: Tensor, stored: Stored) -> tuple[tuple[Array, Any], ...]:
    """Sigma of each noise model (its span where the level itself is random), in array units."""
    found = []
    low, high = op.array._span()
    span = torch.as_tensor(high) - torch.as_tensor(low)
    for model in op.array.noise:
        if noise_models.is_silent(model):
            continue
        if isinstance(model, FixedSNRNoise):
            sigma = weights.std(correction=0) * model.ratio
        elif isinstance(model, GaussianNoise):
            sigma = span.float() if model.eta_std else span.float() * model.eta
        else:
            raise ExportError(
                f"region '{op.region.name}': the noise model '{model.model}' cannot be drawn in an "
                "ONNX graph; export clean weights (noise=None) or a programmed chip"
            )
        values = sigma.cpu().numpy().astype(np.float32)
        swaps = stored.transposed and values.ndim > 1
        found.append((values.swapaxes(-1, -2) if swaps else values, model))
    return tuple(found)


def _bound(op: AnalogOp, weights: Tensor) -> float | None:
    """The largest magnitude of any partial sum, where inputs and weights are integer codes.

    Whatever the order of summation, a partial sum lies between the sum of all negative and the sum
    of all positive products.
    """
    if op.dac.scale is None or op.array.scale is None or op.array.folded:
        return None
    high, low = max(float(op.dac.high), 0.0), max(-float(op.dac.low), 0.0)
    largest = 0.0
    channels = per_channel(op.product, weights)
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
    step = op._stages.step
    return manifest.RegionEntry(
        id=plan.id,
        kind=op.region.operator,  # type: ignore[arg-type]
        attributes=_attributes(op),
        bias=op.region.bias,
        dac=_converter(op.dac),
        weight=_weight(plan),
        adc=_converter(op.adc, None if step is None else _numbers(step)),
        noise=_noise(plan),
        tiles=_tiles(op),
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


def _converter(converter: Converter, step: Any = None) -> manifest.ConverterEntry | None:
    if converter.bits is None or converter.scale is None:
        return None
    low, high = converter.range.tolist()
    return manifest.ConverterEntry(
        bits=converter.bits,
        grid=converter.kind,
        range=(low, high),
        scale=float(converter.scale),
        low=int(converter.low),
        high=int(converter.high),
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
        exported=plan.noise,
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
    size = op.tile_size
    return manifest.TileEntry(
        groups=groups,
        rows=rows,
        columns=columns,
        tile=None if size is None else (size.rows, size.cols),
        grid=None if size is None else (ceil(rows / size.rows), ceil(columns / size.cols)),
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
