"""One pass of the whole data through one programmed chip, leaving no trace on the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from analogize.crossbar.chip import program
from analogize.crossbar.ops import operators
from analogize.errors import AnalogizeError, EvaluationError
from analogize.evaluation.generators import (
    generator_states,
    seed_generators,
    set_generator_states,
)
from analogize.evaluation.metrics import Accuracy, Score, describe
from analogize.model.calls import Call, batch_call, device_of, split_labels


class Pass(NamedTuple):
    """What one pass found.

    Attributes:
        value: The metric.
        samples: Number of samples.
        drew: Whether the model drew random numbers, besides those of its chip.
        hits: Which samples were right (``hits.pack``); None for metrics that do not say.
    """

    value: float
    samples: int
    drew: bool
    hits: str | None = None


@torch.no_grad()
def run_chip(
    model: nn.Module,
    data: Iterable[Any],
    score: Score,
    seed: int,
    prepare: Callable[[int], None] | None = None,
) -> Pass:
    """Program chip ``seed`` and measure ``score`` on it over the whole data.

    Torch's generators start from ``seed`` as well, so that a shuffling loader, or a model that
    draws in eval mode, repeats itself whatever ran before.

    Args:
        model: A rewritten model in eval mode and noise mode ``"programmed"``.
        data: Batches of (inputs, targets).
        score: What accumulates the metric.
        seed: The chip.
        prepare: What programs it; by default ``program(model, seed)``.

    Raises:
        EvaluationError: No data, a batch of another form, or a metric that is no finite number.
    """
    device = device_of(model)
    seed_generators(device, seed)
    if prepare is None:
        program(model, seed)
    else:
        prepare(seed)
    seed_generators(device, seed)
    score.reset(device)
    samples, drew = 0, False
    for index, batch in enumerate(data):
        call, targets, count = unpack(batch, index, device)
        # Only the model counts here: loaders draw a seed of their own for every pass.
        before = generator_states(device)
        outputs = _forward(model, call, index)
        after = generator_states(device)
        drew = drew or not all(map(torch.equal, before, after))
        score.update(outputs, targets, count)
        samples += count
    if samples == 0:
        raise EvaluationError("the data hold no sample; evaluate() needs at least one batch")
    return Pass(score.value(), samples, drew, hits_of(score, data))


def hits_of(score: Score, data: Iterable[Any]) -> str | None:
    """Which samples were right since the last ``reset``, where ``score`` tells.

    None of a loader that shuffles: every chip has another order.
    """
    is_shuffled = isinstance(getattr(data, "sampler", None), RandomSampler)
    return score.hits() if isinstance(score, Accuracy) and not is_shuffled else None


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in eval mode; afterwards all is as it was.

    Put back are the training flags, every programmed chip and torch's random state.
    """
    device = device_of(model)
    flags = [(module, module.training) for module in model.modules()]
    # A chip that its weights have outgrown must not come back as a valid one.
    arrays = [op.array for op in operators(model)]
    chips = [(a, a.chip, a.correction, a.origin, a.witness) for a in arrays]
    states = generator_states(device)
    try:
        model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training
        for array, chip, correction, origin, witness in chips:
            array.chip, array.correction, array.origin = chip, correction, origin
            array.witness = witness
        set_generator_states(device, states)


def unpack(batch: Any, index: int, device: torch.device) -> tuple[Call, Any, int]:
    """The call, the targets and the number of samples of one batch, on ``device``."""
    if isinstance(batch, Mapping) and (parts := split_labels(batch))[1] is not None:
        batch = parts
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        form = f"{len(batch)} parts" if isinstance(batch, list | tuple) else describe(batch)
        raise EvaluationError(
            f"batch {index} is {form}, and evaluate() needs (inputs, targets), or a mapping with "
            "'labels': put several inputs into one tuple, or a mapping if they have names"
        )
    inputs, targets = batch
    # A DataLoader makes a list of what was a tuple in the data set.
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs
    call = batch_call((inputs, targets)).to(device)
    targets = Call((targets,)).to(device).args[0]
    count = _count(targets)
    if count is None:
        count = _count([*call.args, *call.kwargs.values()])
    if not count:
        raise EvaluationError(
            f"batch {index} holds no sample: inputs {describe(inputs)}, targets {describe(targets)}"
        )
    return call, targets, count


def _count(value: Any) -> int | None:
    """Samples in a batch's part: the length of the first tensor in it, or of the list itself."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = [count for count in map(_count, value) if count is not None]
        return found[0] if found else len(value)
    return None


def _forward(model: nn.Module, call: Call, index: int) -> Any:
    try:
        return call(model)
    except (AnalogizeError, torch.OutOfMemoryError):
        raise
    except Exception as cause:
        parts = ", ".join(map(describe, [*call.args, *call.kwargs.values()]))
        raise EvaluationError(
            f"the model fails on batch {index}, inputs {parts}: {type(cause).__name__}: {cause}"
        ) from cause
