"""A programmed chip read back as data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from analogize.crossbar.array import is_elsewhere
from analogize.crossbar.chip import regions, weight_of
from analogize.crossbar.chip_data import ArrayData, Chip
from analogize.crossbar.conductances import to_data
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.periphery import describe_reading
from analogize.errors import ChipError
from analogize.model.offloading import refuse_offloaded
from analogize.model.parts import report_of


def read_chip(model: nn.Module, name: str = "") -> Chip:
    """The programmed chip as data: the conductances of every cell in siemens, tile by tile.

    ``program(model, chip)`` makes it the same chip again, bit for bit, in another process too
    (``analogize.chips`` writes and reads files).

    Args:
        model: a rewritten model, or any module with rewritten parts, that a chip is programmed on.
        name: what to call the chip.

    Raises:
        ChipError: no chip is programmed, or the weights have changed since.
    """
    refuse_offloaded(model)
    if not regions(model):
        raise ChipError(f"{type(model).__name__} has no analog operator, so it has no chip")
    report = report_of(model)
    # What is read from its other side has no cells of its own.
    every = [found for found in located(model) if found.op.array.home is found.op.array]
    unique = {id(found.op.array): found for found in every}
    arrays = {name: _read(op, weight_of(op)) for op, _, name in unique.values()}
    return Chip(arrays, target="" if report is None else report.target, name=name)


def _read(op: AnalogOp, weight: Tensor) -> ArrayData:
    array = op.array
    chip = array.programmed(weight, op.stored)
    origin = array.origin
    if isinstance(origin, ArrayData):
        return origin
    if origin is None:
        raise ChipError(
            f"region '{array.name}': its chip was loaded without what its cells were drawn from; "
            "call program(model, seed) again, or keep the chip with save_chip()"
        )
    with torch.no_grad():
        if is_elsewhere(weight):
            # Where it was drawn.
            correction = array.correction
            array, weight, chip = array.on_cpu(), weight.cpu(), chip.cpu()
            array.hold(chip, None if correction is None else correction.cpu(), origin)
        data = to_data(array, array.clean(weight.detach()), chip, origin)
    stages = {"dac": op.dac, "adc": op.adc}
    converters = {
        stage: {"bits": each.bits, "range": each.range.tolist()} for stage, each in stages.items()
    }
    said = {"operator": op.region.operator, "reading": describe_reading(origin.reading)}
    return replace(data, settings={**said, **converters})
