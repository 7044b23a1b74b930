"""What tells one data set from another, without going through it: some samples, and how many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from analogize.evaluation.generators import (
    generator_states,
    seed_generators,
    set_generator_states,
)

_CPU = torch.device("cpu")


def data_digest(data: Iterable[Any]) -> str:
    """Digest of a few samples of ``data`` and of their number, as far as that is known.

    Of a loader over a data set with indices the first, the middle and the last sample are taken,
    whatever order it gives them in; of a list likewise of its batches. Other data could only be
    gone through, which may cost much or happen once, so only their length counts; as it does where
    samples differ when they are taken again, at random.
    """
    states = generator_states(_CPU)
    try:
        first, second = _sampled(data), _sampled(data)
    finally:
        set_generator_states(_CPU, states)
    return f"{_size(data)} {first if first == second else ''}".strip()


def told(data: Iterable[Any]) -> str:
    """The same in words, for the data that a chip is given; empty where nothing is known."""
    digest = data_digest(data)
    return f"on data {digest}" if digest else ""


def _sampled(data: Iterable[Any]) -> str:
    seed_generators(_CPU, 0)
    digest = hashlib.blake2b(digest_size=16)
    held: Any = getattr(data, "dataset", data)
    if not _has_indices(held):
        return ""
    count = len(held)
    _add(digest, [held[n] for n in sorted({0, count // 2, count - 1}) if count])
    return digest.hexdigest()


def _has_indices(held: Any) -> bool:
    indexed = isinstance(held, Dataset | Sequence) and not isinstance(held, IterableDataset)
    return indexed and hasattr(held, "__getitem__") and hasattr(held, "__len__")


def _size(data: Any) -> str:
    """How many samples there are; empty where nobody knows without going through them."""
    dataset: Any = getattr(data, "dataset", None)
    if _has_indices(dataset):
        return f"{len(dataset)} samples"
    if not isinstance(data, list | tuple):
        return ""
    # By index: going through the data is for those who measure.
    batches = [data[n] for n in range(len(data))]
    targets = [b[1] if isinstance(b, list | tuple) and len(b) == 2 else None for b in batches]
    counts = [len(t) if isinstance(t, Tensor) and t.ndim else None for t in targets]
    known = [count for count in counts if count is not None]
    return f"{sum(known)} samples" if len(known) == len(counts) else ""


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in value:
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}".encode())
        for each in value:
            _add(digest, each)
    elif isinstance(value, str | bytes | bool | int | float | None):
        digest.update(repr(value).encode())
    elif hasattr(value, "__array__"):
        _add(digest, torch.as_tensor(value))
    else:
        digest.update(type(value).__qualname__.encode())
