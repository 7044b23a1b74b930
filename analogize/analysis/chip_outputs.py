"""The same data through many chips, a bounded part at a time: what the analyses are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.chip import noise_mode, program
from analogize.crossbar.ops import operators
from analogize.errors import EvaluationError
from analogize.evaluation.inference import unpack
from analogize.model.calls import Call, device_of

Output = Callable[[Tensor], Tensor]

# Outputs kept at a time, all chips together, in values of 4 bytes.
_CAPACITY = 2**24


def softmax(scores: Tensor) -> Tensor:
    """Class probabilities of scores (N, classes, ...): the output that section 4 analyses."""
    return scores.softmax(1)


def identity(outputs: Tensor) -> Tensor:
    """The model's outputs as they are."""
    return outputs


@dataclass(frozen=True)
class Part:
    """Some batches of the data, and what the model makes of them without noise.

    Attributes:
        calls: The batches' inputs.
        clean: Outputs without noise, (samples, values).
        targets: The targets as the caller gave them, one entry a batch.
        shape: Shape of one sample's output.
    """

    calls: list[Call]
    clean: Tensor
    targets: list[Any]
    shape: tuple[int, ...]


@torch.no_grad()
def parts(
    model: nn.Module, data: Iterable[Any], chips: int, output: Output = identity
) -> Iterator[Part]:
    """Cut ``data`` into parts whose outputs on all ``chips`` fit in memory together.

    Args:
        model: A rewritten model in eval mode.
        data: Batches of (inputs, targets).
        chips: How many chips' outputs are kept at a time.
        output: What is made of the model's output.

    Raises:
        EvaluationError: No data, or outputs that are no tensor of one row a sample.
    """
    device = device_of(model)
    calls: list[Call] = []
    clean: list[Tensor] = []
    targets: list[Any] = []
    shape: tuple[int, ...] = ()
    empty = True
    for index, batch in enumerate(data):
        call, target, count = unpack(batch, index, device)
        with noise_mode(model, "off"):
            rows = _outputs(model, call, output)
        if rows.shape[0] != count:
            raise EvaluationError(
                f"batch {index} holds {count} samples and gives outputs of shape "
                f"{tuple(rows.shape)}: the first dimension must be the sample"
            )
        shape, empty = tuple(rows.shape[1:]), False
        calls.append(call)
        clean.append(rows.flatten(1))
        targets.append(target)
        if sum(c.numel() for c in clean) * chips >= _CAPACITY:
            yield Part(calls, torch.cat(clean), targets, shape)
            calls, clean, targets = [], [], []
    if calls:
        yield Part(calls, torch.cat(clean), targets, shape)
    elif empty:
        raise EvaluationError("the data hold no sample; give at least one batch")


@torch.no_grad()
def chip_outputs(
    model: nn.Module, part: Part, seeds: Sequence[int], output: Output = identity
) -> Tensor:
    """What every chip makes of ``part``: shape (chips, samples, values), on the model's device.

    Args:
        model: A rewritten model in eval mode and noise mode ``"programmed"``.
        part: Batches.
        seeds: The chips.
        output: What is made of the model's output.
    """
    if all(op.array.is_silent for op in operators(model)):
        # Every chip is the clean one, and a view repeats it for nothing.
        return part.clean.expand(len(seeds), *part.clean.shape)
    found = part.clean.new_empty(len(seeds), *part.clean.shape)
    for number, seed in enumerate(seeds):
        program(model, seed)
        start = 0
        for call in part.calls:
            rows = _outputs(model, call, output).flatten(1)
            found[number, start : start + len(rows)] = rows
            start += len(rows)
    return found


def _outputs(model: nn.Module, call: Call, output: Output) -> Tensor:
    outputs = call(model)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0:
        raise EvaluationError(
            f"the model returns {type(outputs).__name__}, and this analysis needs one tensor with "
            "a row a sample; wrap the model so that it returns one"
        )
    found = output(outputs)
    if not bool(torch.isfinite(found).all()):
        raise EvaluationError("the model's outputs hold NaN or infinite values")
    return found.unsqueeze(1) if found.ndim == 1 else found
