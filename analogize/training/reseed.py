"""Random state of a training run as a function of seed, epoch and process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch


def stream_seed(*parts: object) -> int:
    """63 bits from any parts that print alike in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def reseed(seed: int, epoch: int, rank: int, stream: str, loader: Any = None) -> None:
    """Start torch's generators, and those of ``loader``, where this epoch starts.

    Every epoch starts from a seed of its own, so an epoch that is run again after a kill repeats
    itself without any generator's state in the checkpoint.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        rank: the process, so that each draws its own noise.
        stream: keeps draws for different purposes apart.
        loader: a data loader whose own generators are found and seeded too, whatever the caller
            seeded them with.
    """
    torch.manual_seed(stream_seed(seed, epoch, rank, stream))
    for index, generator in enumerate(_generators(loader)):
        # Without the rank: processes that split one permutation must draw the same one.
        generator.manual_seed(stream_seed(seed, epoch, stream, index))


def step_normal(seed: int, step: int, rank: int) -> Callable[[], float]:
    """A N(0, 1) draw that belongs to one optimizer step of one process."""
    return lambda: random.Random(stream_seed(seed, step, rank, "eta")).gauss(0.0, 1.0)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """Every distinct generator of a loader, its samplers and its data set."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = (loader, getattr(loader, "sampler", None), batch_sampler)
    seen: set[int] = set()
    for place in (*places, getattr(batch_sampler, "sampler", None)):
        generator = getattr(place, "generator", None)
        if isinstance(generator, torch.Generator) and id(generator) not in seen:
            seen.add(id(generator))
            yield generator
