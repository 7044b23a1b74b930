"""What a batch of training data holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from analogize.model.calls import Call, batch_call, split_labels


def unpack(batch: Any) -> tuple[Call, Any]:
    """The call, and the labels or None; batches are on the device already."""
    if isinstance(batch, Mapping):
        inputs, labels = split_labels(batch)
        return batch_call((inputs, None)), labels
    labels = batch[1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
    # A DataLoader makes a list of what was a tuple in the data set.
    return batch_call((tuple(inputs) if isinstance(inputs, list) else inputs, None)), labels


def batch_size(call: Call) -> int:
    """How many samples the first input holds; 1 where that is not a tensor."""
    first = next(iter([*call.args, *call.kwargs.values()]), None)
    return len(first) if isinstance(first, Tensor) and first.ndim else 1
