"""What passes through an array during calibration, kept in little memory: values and how often.

A ``Stream`` is for one range over all values, a ``Columns`` for one range a column. Both are exact
for what is short, and both know the smallest and the largest value of any stream exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.errors import CalibrationError

# Values that are kept one by one before they are counted.
_EXACT = 2**16
# bfloat16 keeps sign, exponent and 7 bits: neighbours differ by 2^-7 of themselves at most.
_CODES = 2**16
RESOLUTION = 2.0**-7
# Of a range a column, values that are kept of all columns together, and vectors at least.
_KEPT_VALUES, _FEWEST_VECTORS = 2**20, 512


class Stream:
    """Every value of a stream, exactly up to 2^16 values, then rounded to bfloat16 and counted.

    A percentile of the counted values is within half of ``RESOLUTION`` of itself (0.4 %) of the
    exact one. Nothing is drawn at random, and the order of the values does not matter.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.smallest, self.largest = float("inf"), float("-inf")
        self._held: Tensor | None = None
        self._filled = 0
        self._counts: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Take in one tensor of any shape.

        Raises:
            CalibrationError: NaN or infinite values were taken in, by this call or one before.
        """
        flat = values.detach().flatten()
        count = flat.numel()
        if not count:
            return
        self.seen += count
        # A buffer, not a list: a recurrent layer adds a few values thousands of times, and each
        # counting takes as long as that of a full one.
        if self._held is None:
            self._held = torch.empty(_EXACT, device=flat.device)
        if self._filled + count > _EXACT:
            self._empty()
        if count > _EXACT:
            self._count(flat)
            return
        self._held[self._filled : self._filled + count] = flat
        self._filled += count

    def _empty(self) -> None:
        """Count what is held."""
        assert self._held is not None
        if self._counts is None:
            self._counts = torch.zeros(_CODES, dtype=torch.long, device=self._held.device)
        if self._filled:
            self._count(self._held[: self._filled])
        self._filled = 0

    def _count(self, flat: Tensor) -> None:
        assert self._counts is not None
        self._extend(flat)
        codes = flat.to(torch.bfloat16).view(torch.int16).int().add_(_CODES // 2)
        self._counts += torch.bincount(codes, minlength=_CODES)

    def _extend(self, flat: Tensor) -> None:
        low, high = (float(end) for end in torch.aminmax(flat))
        if not abs(low) + abs(high) < float("inf"):
            raise CalibrationError("the calibration data lead to NaN or infinite activations")
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)

    def values(self) -> tuple[Tensor, Tensor]:
        """The values in ascending order and how often each occurs, on the CPU; two (n,) tensors.

        Raises:
            CalibrationError: they are NaN or infinite.
        """
        if self._counts is None:
            held = torch.empty(0) if self._held is None else self._held[: self.seen]
            if held.numel():
                self._extend(held)
            ordered = held.cpu().sort().values
            return ordered, torch.ones(len(ordered), dtype=torch.long)
        self._empty()
        codes = self._counts.nonzero().flatten()
        counts = self._counts[codes].cpu()
        values = (codes.cpu() - _CODES // 2).to(torch.int16).view(torch.bfloat16).float()
        values, order = values.clamp(self.smallest, self.largest).sort()
        return values, counts[order]

    @property
    def is_rounded(self) -> bool:
        """Whether the values were too many to keep as they are."""
        return self._counts is not None


class Columns:
    """A uniform sample of the vectors of a stream, one row each, and every column's extremes.

    Exact while the vectors fit; beyond, each has the same chance to be kept (a reservoir, decided
    a batch at a time), from a generator of its own: calibration neither uses nor moves torch's
    global random state.
    """

    def __init__(self, columns: int) -> None:
        self.capacity = max(_FEWEST_VECTORS, _KEPT_VALUES // columns)
        self.seen = 0
        # Slots that are written over; empty ones are not touched, and take no memory.
        self._slots = torch.empty(self.capacity, columns)
        self._filled = 0
        self.smallest = torch.full((columns,), torch.inf)
        self.largest = torch.full((columns,), -torch.inf)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, rows: Tensor) -> None:
        """Take in vectors, shape (vectors, columns).

        Raises:
            CalibrationError: they hold NaN or infinite values.
        """
        if not len(rows):
            return
        rows = rows.detach().float()
        low, high = (end.cpu() for end in torch.aminmax(rows, dim=0))
        if not bool(torch.isfinite(torch.stack([low, high])).all()):
            raise CalibrationError("the calibration data lead to NaN or infinite activations")
        self.smallest = torch.minimum(self.smallest, low)
        self.largest = torch.maximum(self.largest, high)
        total = self.seen + len(rows)
        share = round(self.capacity * len(rows) / total)
        self.seen, before = total, self._filled
        free = torch.arange(before, min(total, self.capacity))
        if total > self.capacity:
            rows = rows.index_select(0, self._chosen(len(rows))[:share].to(rows.device))
            free = torch.cat([self._chosen(before)[self.capacity - len(rows) :], free])
        self._slots.index_copy_(0, free, rows.cpu())
        self._filled = min(total, self.capacity)

    def _chosen(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self._generator)

    @property
    def kept(self) -> Tensor:
        """The sample, shape (vectors, columns), in no order."""
        return self._slots[: self._filled]
