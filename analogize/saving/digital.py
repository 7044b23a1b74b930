"""to_digital(): the way back, with the clean weights or with those of the programmed chip."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from analogize.capture.choose import restore
from analogize.crossbar.array import WeightArray
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp
from analogize.devices.compensation import against_weights, is_of_tiles
from analogize.errors import SavingError
from analogize.model.copying import copied
from analogize.model.module import AnalogModule
from analogize.model.offloading import refuse_offloaded
from analogize.model.parts import parts, unwrapped


@torch.no_grad()
def to_digital(model: nn.Module, weights: Literal["clean", "chip"] = "clean") -> nn.Module:
    """The digital model that ``model`` was rewritten from: its class, and its strict state dict.

    Args:
        model: what ``analogize`` returned, or a module with such parts; untouched.
        weights: ``"clean"`` keeps the parameters as they are, without clipping or grid;
            ``"chip"`` writes what the programmed chip holds in their place, in weight units, with
            the digital correction of drift in them. The converters are gone either way.

    Raises:
        SavingError: nothing is analog, a whole-model graph has no class to go back to, or the
            chip's weights have no place in the digital model.
        ChipError: no chip is programmed, or it is not that of these weights.
    """
    if weights not in ("clean", "chip"):
        raise SavingError(f"weights is {weights!r}; allowed are 'clean' and 'chip'")
    model = unwrapped(model)
    refuse_offloaded(model)
    if not parts(model):
        raise SavingError(f"{type(model).__name__} has no analog part; it is digital already")
    for path, module in model.named_modules():
        if isinstance(module, AnalogModule):
            raise SavingError(
                f"'{path or type(module).__name__}' was captured as one graph, which keeps no "
                "module to go back to: load its weights into a fresh digital model, "
                "model.load_state_dict(digital_state(analog)), or rewrite with "
                "capture='hierarchical'"
            )
    digital = copied(model)
    if weights == "chip":
        _write_chip(digital)
    restore(digital)
    for module in digital.modules():
        module.__dict__.pop("report", None)
    return digital


@torch.no_grad()
def digital_state(
    model: nn.Module, weights: Literal["clean", "chip"] = "clean"
) -> dict[str, Tensor]:
    """The state dict of the digital model, which loads strictly into a fresh one.

    Works for every front end; see ``to_digital``.
    """
    if weights not in ("clean", "chip"):
        raise SavingError(f"weights is {weights!r}; allowed are 'clean' and 'chip'")
    refuse_offloaded(unwrapped(model))
    model = copied(unwrapped(model))
    if weights == "chip":
        _write_chip(model)
    inside = tuple(f"{path}." for path, m in model.named_modules() if isinstance(m, AnalogOp))
    return {k: v for k, v in model.state_dict().items() if not k.startswith(inside)}


def chip_weights(op: AnalogOp, weight: Tensor) -> Tensor:
    """What the chip of ``op`` holds for ``weight``: its shape, in weight units, float32.

    Raises:
        ChipError: no chip is programmed, or the weights are others since.
    """
    array = op.array
    held = array.whole(array.programmed(weight, op.stored)).float()
    grid = array.grid
    real = held if grid is None or array.folded else held * grid.scale
    if array.correction is None:
        return real
    factor = array.correction
    if is_of_tiles(factor, array.product):
        assert array.layout is not None, "tiles have a size"
        return real * against_weights(factor.flatten(1), array.layout)
    if factor.ndim:
        factor = array.product.channels(factor.flatten(), array.shape)
    return real * factor


def _write_chip(model: nn.Module) -> None:
    """Put the chip's weights in the place of the parameters."""
    parameters = {_storage(p) for p in model.parameters()}
    chips: dict[WeightArray, tuple[Tensor, Tensor]] = {}
    for op, region, _ in located(model):
        weight = op.stored.value()
        if _storage(weight) not in parameters:
            raise SavingError(
                f"region '{region.name}': its weight is computed from parameters, so the chip's "
                "has no place in the digital model; merge it first (merge_and_unload, "
                "remove_parametrizations), and rewrite"
            )
        if op.side is not None:
            raise SavingError(
                f"region '{region.name}': digital scales and offsets follow the array, and the "
                "digital model has no place for them"
            )
        chips[op.array] = weight, chip_weights(op, weight)
    # Only now, since a write makes every chip of these weights an old one.
    for array, (weight, chip) in chips.items():
        weight.copy_(chip.to(weight.dtype))
        array.erase()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
