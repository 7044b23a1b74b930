"""Many chips in one batched pass: torch.func.vmap over the programmed weights.

One by one, a small model leaves most of a processor idle; batched, a convolution over n chips is
one convolution with n groups. Results differ from one by one only where the library adds up in
another order: accumulated values by rounding, and with an ADC, where that falls on the edge between
two codes, an output by one step of the ADC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from analogize.array import WeightArray
from analogize.calls import device_of, example_call
from analogize.chip import noise_mode, program
from analogize.errors import ChipError
from analogize.inference import undisturbed
from analogize.ops import operators


@torch.no_grad()
def program_many(model: nn.Module, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Draw chips ``seeds`` and stack them: every array's buffer name, with (chips, ...) weights.

    Raises:
        ChipError: no seed, or no analog operator.
    """
    if not seeds:
        raise ChipError("no chip to program; give at least one seed")
    arrays = _arrays(model)
    drawn: dict[str, list[Tensor]] = {name: [] for name in arrays}
    with undisturbed(model):
        for seed in seeds:
            program(model, seed)
            for name, array in arrays.items():
                assert array.chip is not None, "program() fills every array"
                drawn[name].append(array.chip)
    return {name: torch.stack(chips) for name, chips in drawn.items()}


@torch.no_grad()
def run_many(model: nn.Module, inputs: Any, chips: dict[str, Tensor]) -> Any:
    """What each of ``chips`` makes of ``inputs``, in eval mode: outputs get a first dimension.

    Args:
        model: A rewritten model that draws nothing at random in eval mode besides its chip.
        inputs: A tensor, a tuple of positional or a mapping of named arguments.
        chips: From ``program_many``; weights that have changed since are used all the same.

    Raises:
        ChipError: ``chips`` are another model's.
    """
    arrays = _arrays(model)
    if chips.keys() != arrays.keys():
        raise ChipError("these chips belong to another model; program them with program_many()")
    call = example_call(inputs).to(device_of(model))

    def one(weights: dict[str, Tensor]) -> Any:
        return functional_call(model, weights, call.args, dict(call.kwargs))

    with noise_mode(model, "programmed"), undisturbed(model):
        # functional_call replaces buffers, so every array must hold one to be replaced.
        for name, array in arrays.items():
            array.chip, array._programmed_version = chips[name][0], None
        return vmap(one)(chips)


def _arrays(model: nn.Module) -> dict[str, WeightArray]:
    """Every array by the name of its chip buffer; shared arrays once."""
    paths = {id(m): name for name, m in model.named_modules()}
    found = {f"{paths[id(op.array)]}.chip": op.array for op in operators(model)}
    if not found:
        raise ChipError(
            f"{type(model).__name__} has no analog operator; rewrite it with analogize() first"
        )
    return found
