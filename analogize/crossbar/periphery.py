"""The signals of one operator on a chip or in a pass: drivers, columns, converters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.conductances import Drawn
from analogize.devices.cells import Reading
from analogize.devices.random import Draws
from analogize.devices.signals import Signals
from analogize.errors import ChipError
from analogize.model.one_pass import Pass, compiled_seed, running_pass
from analogize.targets.noise import acts_on_signals

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp


def has_signals(array: WeightArray) -> bool:
    """Whether any noise model acts on signals."""
    return any(map(acts_on_signals, array.noise))


def signals_of(op: AnalogOp, programmed: bool) -> Signals:
    """What the chip's, or this pass's, periphery does to the signals of ``op``.

    Args:
        op: the operator.
        programmed: whether it uses its chip.

    Raises:
        ChipError: the chip does not say what its converters are.
    """
    array = op.array
    stages = op._stages
    full = float(torch.as_tensor(array.full).abs().max()) if array.clips else 0.0
    largest = 0.0 if stages.x_scale is None else max(-stages.x_low, stages.x_high)
    size = op.tile_size
    if size is not None and size.input_bits is not None and op.tiles is not None:
        largest = min(largest, 2.0**size.input_bits - 1)
    return Signals(
        noise=array.noise,
        reading=_of_chip(array) if programmed else _of_pass(array),
        region=array.name,
        product=op.product,
        shape=array.shape,
        largest_input=largest,
        full_sum=largest * full,
        step=stages.step,
        codes=(stages.y_low, stages.y_high),
        conductance=array.conductance,
    )


def _of_pass(array: WeightArray) -> Reading:
    if torch.compiler.is_compiling():
        return Reading(Draws(f"signals {array.name}", compiled_seed()))
    this = running_pass() or Pass()
    return Reading(Draws(f"signals {this.name_of(array.name, array)}", this.seed))


def _of_chip(array: WeightArray) -> Reading:
    origin = array.origin
    reading = None
    if isinstance(origin, Drawn):
        reading = origin.reading
    elif isinstance(origin, ArrayData):
        reading = reading_from(origin)
    if reading is None:
        raise ChipError(
            f"region '{array.name}': the target models converters or drivers, and this chip does "
            "not say what they are; give the Chip a seed, which draws them, or call "
            "program(model, seed)"
        )
    return reading


def describe_reading(reading: Reading) -> dict[str, object]:
    """A reading as plain values, for ``ArrayData.settings``."""
    return {
        "draws": reading.draws.key,
        "time": reading.time,
        "cycle": reading.cycle,
        "conditions": dict(reading.conditions),
    }


def reading_from(data: ArrayData) -> Reading | None:
    """The reading that ``describe_reading`` described; None where ``data`` has none."""
    said = data.settings.get("reading")
    if not isinstance(said, dict) or not isinstance(said.get("draws"), str):
        return None
    conditions = {str(name): float(value) for name, value in said.get("conditions", {}).items()}
    return Reading(
        Draws(said["draws"]), float(said.get("time", 0.0)), int(said.get("cycle", 0)), conditions
    )
