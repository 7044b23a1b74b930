"""What each analog region needs in the file: weights, noise, and a bound on its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogize.crossbar.chip import weight_of
from analogize.crossbar.located import Located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.region import Region
from analogize.devices.compensation import is_of_tiles
from analogize.errors import CalibrationError, ExportError
from analogize.onnx.writing.body import Array
from analogize.onnx.writing.runtime_noise import RuntimeNoise, plan_noise
from analogize.onnx.writing.storage import Stored, WeightStorage, store
from analogize.product import per_channel
from analogize.targets.noise import acts_on_signals

_CHANNELS_AT_ONCE = 1024
NoiseKind = Literal["none", "runtime", "programmed"]


@dataclass(frozen=True)
class RegionPlan:
    """What one region needs in the file.

    Attributes:
        id: unique name.
        owner: the region whose array it uses; its own id if it owns the array.
        op: the operator.
        region: what it stands for, with the names that the exported model gives.
        stored: the weights as the file keeps them.
        kind: what of the noise goes into the file.
        noise: what the graph draws at every run.
        correction: what a programmed chip's output is multiplied by, viewed against it, or None.
        max_accumulator: bound on the accumulated codes of any conversion, or None.
        widths: bits of the types that the file may keep codes in; without any, codes are floats.
    """

    id: str
    owner: str
    op: AnalogOp
    region: Region
    stored: Stored
    kind: NoiseKind
    noise: RuntimeNoise
    correction: Array | None
    max_accumulator: float | None
    widths: tuple[int, ...]


def plan_regions(
    operators: Sequence[Located],
    noise: NoiseKind,
    seed: int | None,
    storage: WeightStorage,
    widths: tuple[int, ...],
) -> tuple[RegionPlan, ...]:
    """Plan every region.

    Args:
        operators: the model's operators, in the order of the placeholders.
        noise: what of the weight noise goes into the file.
        seed: the chip to draw for ``"programmed"``, or None for the one programmed already.
        storage: how to keep the weights.
        widths: bits of the types that the file may keep codes in.

    Raises:
        CalibrationError: a converter has bits and no range.
        ChipError: ``"programmed"`` without seed, and no valid chip.
        ExportError: weights that are not float32; or models of drivers, columns or converters,
            which a graph does not hold.
    """
    owners: dict[int, str] = {}
    stored: dict[int, Stored] = {}
    plans: list[RegionPlan] = []
    names = _unique([found.region.name for found in operators])
    for name, (op, region, array) in zip(names, operators, strict=True):
        _require_exportable(op, noise)
        key = id(op.array)
        owner = owners.setdefault(key, name)
        # Floats of one region at a time: all of them would be a second copy of the model.
        weights = _weights(op, array, noise, seed)
        if key not in stored:
            stored[key] = store(weights, op, noise == "programmed", storage, widths)
        kept = stored[key]
        draws = noise == "runtime"
        correction = op.array.correction if noise == "programmed" and seed is None else None
        if is_of_tiles(correction, op.product):
            raise ExportError(
                f"region '{region.name}': its drift is corrected tile by tile, which a graph does "
                "not hold; program the chip with compensation='column' or 'global'"
            )
        plans.append(
            RegionPlan(
                id=name,
                owner=owner,
                op=op,
                region=region,
                stored=kept,
                kind=noise,
                noise=plan_noise(op, weights, kept.transposed) if draws else RuntimeNoise(),
                correction=None if correction is None else correction.cpu().numpy(),
                max_accumulator=_bound(op, weights) if noise == "none" else None,
                widths=widths,
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


def _require_exportable(op: AnalogOp, noise: NoiseKind) -> None:
    signals = [model.model for model in op.array.noise if acts_on_signals(model)]
    if signals and noise != "none":
        raise ExportError(
            f"region '{op.region.name}': '{signals[0]}' is about drivers, columns or converters of "
            "a chip, which an ONNX graph does not hold; export the ideal ones (noise=None), or "
            "keep the chip with save_chip()"
        )
    if not op.is_calibrated:
        raise CalibrationError(
            f"region '{op.region.name}' has a converter without a range; call "
            "calibrate(model, loader) before exporting"
        )


def _weights(op: AnalogOp, name: str, noise: NoiseKind, seed: int | None) -> Tensor:
    """The weights in array units, on the CPU; the digits of a chip that has tiles of them."""
    parameter = weight_of(op).detach()
    if parameter.dtype != torch.float32:
        raise ExportError(
            f"region '{op.region.name}': its weights are {parameter.dtype}, and the file's "
            "arithmetic is float32; call model.float() first"
        )
    array = op.array
    if noise != "programmed":
        return array.clean(parameter).cpu()
    chip = (
        array.programmed(parameter, op.stored)
        if seed is None
        else array.draw(parameter, seed, name=name)
    )
    return (chip if op.tiles is not None else array.whole(chip)).cpu()


def _bound(op: AnalogOp, weights: Tensor) -> float | None:
    """The largest magnitude of any partial sum, where inputs and weights are integer codes.

    Whatever the order of summation, a partial sum lies between the sum of all negative and the sum
    of all positive products.
    """
    if op.dac.scale is None or op.array.scale is None or op.array.folded:
        return None
    high, low = max(op._stages.x_high, 0.0), max(-op._stages.x_low, 0.0)
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
