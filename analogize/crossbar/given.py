"""A chip given as data instead of drawn: measured conductances, defect maps, chips read before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from analogize.crossbar.array import WeightArray, is_elsewhere
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.conductances import Drawn, from_data, to_data, with_defects
from analogize.crossbar.periphery import describe_reading
from analogize.crossbar.transposed import TransposedArray
from analogize.devices.cells import Reading
from analogize.devices.compensation import viewed
from analogize.devices.random import Draws
from analogize.errors import ChipError
from analogize.targets.spec import Compensation


@torch.no_grad()
def give(
    array: WeightArray,
    weight: Tensor,
    chip: Chip,
    time: float,
    compensation: Compensation | None,
    cycle: int,
    name: str,
    conditions: Mapping[str, float] | None = None,
) -> None:
    """Program one array with its part of ``chip``, or with what the chip's seed draws.

    Raises:
        ChipError: its data do not fit the array.
    """
    if isinstance(array, TransposedArray):
        with array.turned(weight) as other:
            give(array.home, other, chip, time, compensation, cycle, name, conditions)
        return
    if is_elsewhere(weight):
        array.settle(weight)
        here, there = array.on_cpu(), weight.detach().cpu()
        give(here, there, chip, time, compensation, cycle, name, conditions)
        array.take(here, weight.device)
        return
    data = chip.arrays.get(name)
    if data is None or data.defects is not None:
        assert chip.seed is not None, "checked"
        array.program(weight, chip.seed, time, compensation, cycle, name, conditions)
        if data is not None:
            drawn, before, clean = array.origin, array.chip, array.clean(weight.detach())
            assert isinstance(drawn, Drawn), "it was drawn just now"
            assert before is not None, "likewise"
            held = with_defects(array, clean, before, drawn, data, name)
            origin = to_data(array, clean, held, drawn, data.defects)
            said = {"reading": describe_reading(drawn.reading)}
            array.hold(held, array.correction, replace(origin, settings=said))
        return
    array.settle(weight)
    held = from_data(array, data, weight.detach(), name)
    correction = None
    if data.correction is not None:
        values = torch.from_numpy(data.correction).to(weight.device, torch.float32)
        is_one = values.ndim < 2 and values.numel() == 1
        correction = values.flatten()[0] if is_one else viewed(values, array.product)
    if chip.seed is not None and "reading" not in data.settings:
        # The converters of a chip whose cells alone were measured.
        reading = Reading(Draws(f"{chip.seed}/{name}"), conditions=conditions or {})
        data = replace(data, settings={**data.settings, "reading": describe_reading(reading)})
    array.hold(held, correction, data)


def require_fitting(
    chip: Chip,
    names: list[str],
    time: float,
    cycle: int,
    conditions: Mapping[str, float] | None = None,
) -> None:
    """Refuse a chip of other regions, or one that lacks some without a seed to draw them.

    Raises:
        ChipError: it does not fit; the message names a region.
    """
    unknown = [name for name in chip if name not in names]
    if unknown:
        raise ChipError(
            f"the chip holds the region '{unknown[0]}', and the model has none of that name; its "
            f"regions are {', '.join(names)}"
        )
    drawn = [name for name in names if name not in chip.arrays]
    partly = [name for name, data in chip.arrays.items() if data.defects is not None]
    if chip.seed is None and (drawn or partly):
        raise ChipError(
            f"the chip holds no cells of '{(drawn or partly)[0]}': measure them too, or give the "
            "chip a seed, which draws what it lacks"
        )
    if len(drawn) + len(partly) < len(names) and (time or cycle):
        raise ChipError(
            "a measured chip is what it was when it was measured; leave drift_time and cycle at 0"
        )
    # What has no reading of its own is given converters by the chip's seed.
    read = chip.seed is None or all("reading" in data.settings for data in chip.arrays.values())
    if len(drawn) + len(partly) == 0 and read and conditions:
        raise ChipError(
            "a measured chip is what it was when it was measured; leave conditions out, or draw "
            f"the chip at other conditions ({', '.join(conditions)}) by its seed"
        )
