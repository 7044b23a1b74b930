"""Many chips in one batched pass: torch.func.vmap over the programmed weights.

One by one, a small model leaves most of a processor idle; batched, a convolution over n chips is
one convolution with n groups. Results differ from one by one only where the library adds up in
another order: accumulated values by rounding, and with an ADC, where that falls on the edge between
two codes, an output by one step of the ADC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip import noise_mode, program
from analogize.crossbar.ops import operators
from analogize.crossbar.periphery import has_signals
from analogize.errors import AnalogizeError, ChipError, EvaluationError
from analogize.evaluation.generators import generator_states, seed_generators
from analogize.evaluation.inference import Pass, hits_of, run_chip, undisturbed, unpack
from analogize.evaluation.metrics import Score
from analogize.model.calls import Call, device_of, example_call


@torch.no_grad()
def program_many(
    model: nn.Module, seeds: Sequence[int], prepare: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """Draw chips ``seeds`` and stack them: every array's buffer name, with (chips, ...) weights.

    Args:
        model: A rewritten model.
        seeds: The chips.
        prepare: What programs a chip; by default ``program(model, seed)``.

    Raises:
        ChipError: no seed, no analog operator, or chips that differ in more than their weights
            (a correction of drift, converters of their own), which takes one by one.
    """
    if not seeds:
        raise ChipError("no chip to program; give at least one seed")
    arrays = _arrays(model)
    drawn: dict[str, list[Tensor]] = {name: [] for name in arrays}
    for name, array in arrays.items():
        if has_signals(array):
            raise ChipError(
                f"'{name.removesuffix('.chip')}' has converters or drivers that differ from chip "
                "to chip, which a batched pass leaves out: measure one by one (at_once=1)"
            )
    with undisturbed(model):
        for seed in seeds:
            (prepare or partial(program, model))(seed)
            for name, array in arrays.items():
                assert array.chip is not None, "program() fills every array"
                if array.correction is not None:
                    raise ChipError(
                        f"'{name.removesuffix('.chip')}' is corrected for drift, each chip in its "
                        "own way, which a batched pass leaves out: measure one by one (at_once=1)"
                    )
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
    if chips.keys() != _arrays(model).keys():
        raise ChipError("these chips belong to another model; program them with program_many()")
    call = example_call(inputs).to(device_of(model))
    with noise_mode(model, "programmed"), undisturbed(model):
        return _run(model, call, chips)


@torch.no_grad()
def run_chips(
    model: nn.Module,
    data: Iterable[Any],
    scores: Sequence[Score],
    seeds: Sequence[int],
    prepare: Callable[[int], None] | None = None,
) -> list[Pass]:
    """Measure chips ``seeds`` over the whole data, several of them in one batched pass.

    All of them see the order of samples that the first seed gives a shuffling loader.

    Args:
        model: A rewritten model in eval mode and noise mode ``"programmed"``, within
            ``undisturbed``.
        data: Batches of (inputs, targets).
        scores: What accumulates the metric, at least as many as chips.
        seeds: The chips.
        prepare: What programs a chip; by default ``program(model, seed)``. It may change no more
            than the chip's weights where there are several.

    Raises:
        EvaluationError: What ``run_chip`` raises; or the model cannot be batched over chips.
    """
    if len(seeds) == 1:
        return [run_chip(model, data, scores[0], seeds[0], prepare)]
    device, used = device_of(model), scores[: len(seeds)]
    chips = program_many(model, seeds, prepare)
    seed_generators(device, seeds[0])
    for score in used:
        score.reset(device)
    samples = 0
    for index, batch in enumerate(data):
        call, targets, count = unpack(batch, index, device)
        outputs = _refuse_what_cannot_be_batched(model, call, chips)
        for chip, score in enumerate(used):
            score.update(tree_map(lambda y, k=chip: y[k], outputs), targets, count)
        samples += count
    if samples == 0:
        raise EvaluationError("the data hold no sample; evaluate() needs at least one batch")
    return [Pass(score.value(), samples, False, hits_of(score, data)) for score in used]


def _refuse_what_cannot_be_batched(model: nn.Module, call: Call, chips: dict[str, Tensor]) -> Any:
    before = generator_states(device_of(model))
    try:
        outputs = _run(model, call, chips)
    except (AnalogizeError, torch.OutOfMemoryError):
        raise
    except Exception as cause:
        raise EvaluationError(
            f"the model cannot run many chips in one batched pass; use at_once=1: {cause}"
        ) from cause
    if not all(map(torch.equal, before, generator_states(device_of(model)))):
        raise EvaluationError(
            "the model draws random numbers besides its chips (read noise, or sampling in eval "
            "mode), which a batched pass would draw otherwise; use at_once=1"
        )
    return outputs


def _run(model: nn.Module, call: Call, chips: dict[str, Tensor]) -> Any:
    def one(weights: dict[str, Tensor]) -> Any:
        return functional_call(model, weights, call.args, dict(call.kwargs))

    # functional_call replaces buffers, so every array must hold one to be replaced.
    for name, array in _arrays(model).items():
        array.chip, array.correction, array.witness = chips[name][0], None, None
    return vmap(one, randomness="different")(chips)


def _arrays(model: nn.Module) -> dict[str, WeightArray]:
    """Every array by the name of its chip buffer; shared arrays once."""
    paths = {id(m): name for name, m in model.named_modules()}
    found = {f"{paths[id(op.array)]}.chip": op.array for op in operators(model)}
    if not found:
        raise ChipError(
            f"{type(model).__name__} has no analog operator; rewrite it with analogize() first"
        )
    return found
