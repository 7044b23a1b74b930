"""Which samples each chip gets right, and the interval of an accuracy over chips and samples.

Chips and samples are crossed: every chip sees every sample, and some samples are hard for all
chips. So both are drawn again, independently, with replacement, and the accuracy is that of the
rows and columns drawn (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1,
2007). It errs on the wide side: the variance that belongs to neither chip nor sample alone counts
three times.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_AT_A_TIME = 100


def pack(hits: Tensor, targets: Tensor) -> str:
    """One chip's hits in a line of text.

    Args:
        hits: whether each sample was right, bool, shape (N,).
        targets: their classes, whose order tells samples of one run apart from another's.
    """
    order = zlib.crc32(targets.cpu().to(torch.int64).contiguous().numpy().tobytes())
    packed = np.packbits(hits.cpu().numpy())
    return f"{order:08x} {len(hits)} {base64.b64encode(packed.tobytes()).decode('ascii')}"


def matrix(lines: Sequence[str]) -> npt.NDArray[np.bool_] | None:
    """The hits of several chips, shape (chips, samples); None where their samples differ."""
    if not lines:
        return None
    parts = [line.split(" ") for line in lines]
    if any(len(part) != 3 or part[:2] != parts[0][:2] for part in parts):
        return None
    count = int(parts[0][1])
    rows = [
        np.unpackbits(np.frombuffer(base64.b64decode(part[2]), np.uint8), count=count)
        for part in parts
    ]
    return np.stack(rows).astype(bool)


def two_way_interval(
    hits: npt.NDArray[np.bool_], confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The interval of the mean over all chips and all samples like these.

    Args:
        hits: shape (chips, samples); one chip alone is not drawn again.
        confidence: how often such an interval covers that mean.
        draws: how often both are drawn.
        seed: of the draws, so that the same hits have the same interval.
    """
    chips, samples = hits.shape
    generator = np.random.default_rng(seed)
    values, found = hits.astype(np.float32), []
    for first in range(0, draws, _AT_A_TIME):
        count = min(_AT_A_TIME, draws - first)
        of_chips = _counts(generator, chips, count)
        of_samples = _counts(generator, samples, count)
        found.append(((of_chips @ values) * of_samples).sum(1) / (chips * samples))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def _counts(generator: np.random.Generator, size: int, draws: int) -> npt.NDArray[np.float32]:
    """How often each of ``size`` is drawn, in each of ``draws`` draws of as many."""
    chosen = generator.integers(0, size, (draws, size))
    rows = np.arange(draws)[:, None] * size
    counts = np.bincount((chosen + rows).ravel(), minlength=draws * size)
    return counts.reshape(draws, size).astype(np.float32)
