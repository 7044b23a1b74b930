"""The programmed chip in the file: its weights, and what its cells were drawn from or given as."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from analogize.chips.parts import put_together, take_apart
from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip import weight_of
from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.chip_data import Chip as ChipData
from analogize.crossbar.conductances import Drawn
from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.witness import Witness
from analogize.devices.cells import Reading
from analogize.devices.random import Draws
from analogize.errors import ChipError, SavingError
from analogize.saving.container import whole_numbers
from analogize.saving.manifest import Chip, Manifest
from analogize.targets.functions import is_foreign, refusal
from analogize.targets.noise import CustomNoise
from analogize.targets.spec import NoiseModel

# What names of its tensors begin with.
CHIP, CORRECTION, GIVEN = "chip.", "correction.", "given."
_Models = TypeAdapter(tuple[NoiseModel, ...])


def arrays(model: nn.Module) -> dict[WeightArray, AnalogOp]:
    """Every array once, in order, with the first operator on it."""
    found: dict[WeightArray, AnalogOp] = {}
    for op in operators(model):
        found.setdefault(op.array, op)
    return found


def describe_chip(model: nn.Module, tensors: dict[str, Tensor]) -> dict[int, Chip]:
    """The chip of every array by number; its tensors are added to ``tensors``.

    Raises:
        SavingError: no chip is programmed.
        ChipError: the weights have changed since.
    """
    found: dict[int, Chip] = {}
    for number, (array, op) in enumerate(arrays(model).items()):
        if array.chip is None:
            raise SavingError(
                f"region '{op.region.name}': no chip is programmed; call program(model, seed) "
                "first, or save with chip=False"
            )
        tensors[f"{CHIP}{number}"] = whole_numbers(array.programmed(weight_of(op), op.stored))
        if array.correction is not None:
            tensors[f"{CORRECTION}{number}"] = whole_numbers(array.correction)
        found[number] = _described(array, number, tensors)
    return found


def _described(array: WeightArray, number: int, tensors: dict[str, Tensor]) -> Chip:
    origin, corrected = array.origin, array.correction is not None
    if isinstance(origin, Drawn):
        key = origin.reading.draws.key
        return Chip(
            seed=None if key is None else int(key.partition("/")[0]),
            key=key,
            drift_time=origin.reading.time,
            cycle=origin.reading.cycle,
            conditions=dict(origin.reading.conditions),
            corrected=corrected,
            noise=None if origin.noise == array.noise else _dumped(origin.noise),
        )
    if origin is None:
        return Chip(corrected=corrected)
    header, held = take_apart(ChipData({str(number): origin}))
    tensors.update(
        {f"{GIVEN}{name}": torch.from_numpy(values.copy()) for name, values in held.items()}
    )
    return Chip(corrected=corrected, given=header)


def _dumped(models: tuple[NoiseModel, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(m.model_dump(mode="json", by_alias=True, exclude_unset=True) for m in models)


def hold_chip(
    model: nn.Module,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    path: Any,
    allowed: bool | Collection[str],
) -> None:
    """Program ``model`` with the file's chip, if it has one.

    Raises:
        SavingError: a part of it is missing, damaged, or names functions that are not allowed.
    """
    if not manifest.chips:
        return
    for number, (array, op) in enumerate(arrays(model).items()):
        where = f"{path}: the chip of region '{op.region.name}'"
        chip, said = tensors.get(f"{CHIP}{number}"), manifest.chips.get(number)
        correction = tensors.get(f"{CORRECTION}{number}")
        if chip is None or said is None or (said.corrected and correction is None):
            raise SavingError(f"{where} is missing")
        try:
            origin = _origin(said, array, number, tensors, allowed)
        except (ChipError, ValueError) as cause:
            raise SavingError(f"{where} cannot be read: {cause}") from cause
        device = array.range.device
        corrected = None if correction is None else correction.to(device)
        array.hold(chip.to(device), corrected, origin)
        array.witness = Witness(weight_of(op), op.stored)


def _origin(
    said: Chip,
    array: WeightArray,
    number: int,
    tensors: Mapping[str, Tensor],
    allowed: bool | Collection[str],
) -> Drawn | ArrayData | None:
    if said.given is not None:
        held = {
            name.removeprefix(GIVEN): values.numpy()
            for name, values in tensors.items()
            if name.startswith(f"{GIVEN}{number}/")
        }
        return put_together(said.given, held, "the file").arrays[str(number)]
    if said.key is None:
        return None
    noise = array.noise
    if said.noise is not None:
        noise = _Models.validate_python(said.noise)
        for model in noise:
            if isinstance(model, CustomNoise) and is_foreign(model, allowed):
                raise SavingError(refusal(model.function, "load"))
    when = said.drift_time, said.cycle, dict(said.conditions)
    return Drawn(Reading(Draws(said.key), *when), noise)
