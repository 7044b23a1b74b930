"""How a model is called: turning a batch, or example inputs, into arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from analogize.model.offloading import refuse_offloaded

# Where data collators put the labels of a mapping.
_LABELS = ("labels", "label")


@dataclass(frozen=True)
class Call:
    """Arguments of one call to a model."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> Call:
        """The same call with every tensor on ``device``."""
        return Call(_move(self.args, device), _move(dict(self.kwargs), device))

    @property
    def samples(self) -> int:
        """How many samples it has, where all tensors have one batch dimension; 1 otherwise."""
        leaves, _ = tree_flatten((self.args, dict(self.kwargs)))
        sizes = {t.shape[0] if t.ndim else 0 for t in leaves if isinstance(t, Tensor)}
        return max(1, sizes.pop()) if len(sizes) == 1 else 1

    def of_one_sample(self) -> Call:
        """The call with the first sample alone, where all tensors have one batch dimension."""
        leaves, structure = tree_flatten((self.args, dict(self.kwargs)))
        sizes = {t.shape[0] if t.ndim else 0 for t in leaves if isinstance(t, Tensor)}
        if len(sizes) != 1 or min(sizes) < 2:
            return self
        first = [t[:1].clone() if isinstance(t, Tensor) else t for t in leaves]
        return Call(*tree_unflatten(first, structure))

    def __call__(self, model: nn.Module) -> Any:
        """Call ``model`` with these arguments."""
        return model(*self.args, **self.kwargs)


def example_call(example_inputs: Any) -> Call:
    """A call from example inputs: one tensor, a tuple of positional or a mapping of named ones.

    Both together are a tuple of a tuple and a mapping: ``((x,), {"mask": mask})``. What is a call
    already stays one.
    """
    if isinstance(example_inputs, Call):
        return example_inputs
    if isinstance(example_inputs, Mapping):
        return Call(kwargs=dict(example_inputs))
    match example_inputs:
        case (tuple() as args, Mapping() as kwargs) if isinstance(example_inputs, tuple):
            return Call(args, dict(kwargs))
    if isinstance(example_inputs, tuple):
        return Call(args=example_inputs)
    return Call(args=(example_inputs,))


def batch_call(batch: Any) -> Call:
    """A call from one batch of a data loader.

    A tensor is the input; a pair or list is (inputs, targets, ...), of which only the inputs are
    used; inputs that are themselves a tuple are positional arguments, a mapping named ones. A batch
    that is a mapping is named inputs, without the labels among them.
    """
    if isinstance(batch, list | tuple) and batch:
        return example_call(batch[0])
    return example_call(split_labels(batch)[0])


def split_labels(batch: Any) -> tuple[Any, Any]:
    """Named inputs and their labels, of a mapping that holds ``labels`` or ``label``; else None."""
    if isinstance(batch, Mapping):
        for name in _LABELS:
            if name in batch and len(batch) > 1:
                return {k: v for k, v in batch.items() if k != name}, batch[name]
    return batch, None


def device_of(model: nn.Module) -> torch.device:
    """Where the model lives: the device of its first parameter or buffer, else the CPU.

    Raises:
        OffloadError: accelerate has offloaded its weights.
    """
    refuse_offloaded(model)
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: _move(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        moved = [_move(v, device) for v in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
