"""What a chip was programmed from: the contents of the tensors that decide its weights.

No counter of writes sees them all: ``weight.data.mul_(2)``, a NumPy view, an optimizer on shards or
a copied model leave none. So the contents themselves are compared, by a checksum of every bit in
its place: CRC-32 on the CPU; on an accelerator, with the lanes v of a row and odd numbers b,

    h_i = sum_j v_ij b_j  mod 2^64

of rows of 4096 lanes, compared there: the host waits for all of them once, at the pass's end. What
a stream captures for a graph is not compared. It costs one reading of the weights a forward pass
(an array that is used again in it, as by a recurrent layer's steps, is not read again, unless a
counter tells of a write), little beside a product with many inputs. Where a large array meets few
inputs (a language model, token by token), it would double the traffic of memory; there, contents
that no counter reports as written to are read a part at a time.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from analogize.model.sharding import whole
from analogize.model.stored import StoredWeight
from analogize.model.transforms import plain

# Beyond so many bytes, calls with fewer inputs than this read one part in so many.
_LARGE, _FEW_INPUTS, _PARTS = 2**24, 16, 16
_LANES = 4096
IN_VALUES = "in their values"
# Rows at a time, to bound what an accelerator holds of their products.
_ROWS = 4096


class Witness:
    """The weights that one array was programmed from.

    Args:
        weight: the weight as the array holds it.
        stored: where it comes from. Of a weight that is computed the tensors behind it are
            compared, whose bits do not depend on how and where it is computed.
    """

    def __init__(self, weight: Tensor, stored: StoredWeight) -> None:
        self._computed = stored.is_computed()
        tensors = self._deciding(weight, stored)
        self._contents = [_Contents(t) for t in tensors]
        self._seen = _counters(tensors)
        self._turn = 0
        self._cast: str | None = None

    def cast(self, before: torch.dtype, now: torch.dtype) -> None:
        """Note that the chip itself was cast, which casting it back does not undo."""
        if before != now and self._cast is None:
            self._cast = f"from {before} to {now}"

    def difference(
        self,
        weight: Tensor,
        stored: StoredWeight,
        inputs: int | None,
        later: list[Tensor] | None = None,
    ) -> str | None:
        """How the weight that is about to be used differs from the one programmed; None if not.

        Args:
            weight: the weight of this forward pass.
            stored: where it comes from.
            inputs: how many inputs this product multiplies by it; None for many.
            later: takes what an accelerator computes, true if contents are the same; None to wait.
        """
        if self._cast is not None:
            return self._cast
        tensors = self._deciding(weight, stored)
        counters = _counters(tensors)
        few = inputs is not None and inputs < _FEW_INPUTS
        part = self._next() if few and counters is not None and counters == self._seen else None
        for contents, tensor in zip(self._contents, tensors, strict=True):
            found = contents.difference(tensor, part, later)
            if found is not None:
                return found
        self._seen = counters
        return None

    def doubted(self, error: Exception) -> Exception:
        """``error``, after which nothing counts as compared."""
        self._seen = None
        return error

    @property
    def seen(self) -> tuple[tuple[int, int], ...] | None:
        """The counters of what was compared last; None where there are none."""
        return self._seen

    def is_seen(self, seen: object, weight: Tensor, stored: StoredWeight) -> bool:
        """Whether no counter tells of a write since ``seen``.

        Args:
            seen: the counters of an earlier comparison, or None.
            weight: the weight that is about to be used.
            stored: where it comes from.
        """
        if seen is None or self._cast is not None:
            return False
        return seen == _counters(self._deciding(weight, stored))

    def _deciding(self, weight: Tensor, stored: StoredWeight) -> tuple[Tensor, ...]:
        if not self._computed:
            return (_in_memory(weight),)
        return tuple(map(_in_memory, stored.sources()))

    def _next(self) -> int:
        self._turn = (self._turn + 1) % _PARTS
        return self._turn

    def __getstate__(self) -> dict[str, Any]:
        # A copy's tensors are others, with other counters.
        return {**self.__dict__, "_seen": None}


def _in_memory(tensor: Tensor) -> Tensor:
    """What has contents, not what transforms of torch.func wrap around it."""
    found = plain(tensor)
    return whole(tensor if found is None else found).detach()


class _Contents:
    """Form and checksums of one tensor, which moving it between devices does not change."""

    def __init__(self, tensor: Tensor) -> None:
        self.form = tensor.shape, tensor.dtype
        self.checksums = _checksums(tensor)
        # Of accelerators, once the first check there has shown the same contents.
        self._sums: dict[torch.device, Tensor] = {}

    def difference(
        self, tensor: Tensor, part: int | None, later: list[Tensor] | None = None
    ) -> str | None:
        """How ``tensor`` differs, None if not at all; only one part of a large one is read."""
        shape, dtype = self.form
        if tensor.shape != shape or tensor.dtype != dtype:
            return f"from {dtype} {tuple(shape)} to {tensor.dtype} {tuple(tensor.shape)}"
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        return None if self._is_same(tensor, part, later) else IN_VALUES

    def _is_same(self, tensor: Tensor, part: int | None, later: list[Tensor] | None = None) -> bool:
        if not tensor.is_cpu:
            return self._is_same_elsewhere(tensor, part, later)
        if part is None:
            return _checksums(tensor) == self.checksums
        part %= len(self.checksums)
        return _checksums(tensor, part) == self.checksums[part : part + 1]

    def _is_same_elsewhere(
        self, tensor: Tensor, part: int | None, later: list[Tensor] | None
    ) -> bool:
        known = self._sums.get(tensor.device)
        if known is None:
            if not self._is_same(tensor.cpu(), None):
                return False
            self._sums[tensor.device] = _sums(tensor, slice(None))
            return True
        one = part is not None and len(self.checksums) > 1
        rows = slice(part, None, _PARTS) if one else slice(None)
        same = (known[rows] == _sums(tensor, rows)).all()
        if later is None:
            return bool(same)
        later.append(same)
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sums": {}}


def _checksums(tensor: Tensor, part: int | None = None) -> list[int]:
    """Checksums of all parts of a tensor's bytes, or of one; a small tensor is one part.

    Bytes that lie in a row are not copied, and no operator of torch runs; NumPy would pin the
    memory, which sharding could then no longer free.
    """
    held = tensor.cpu().contiguous()
    start, size = held.data_ptr(), held.nbytes
    length = size if size <= _LARGE else -(-size // _PARTS)
    if part is not None:
        chosen = [part * length]
    else:
        chosen = [0] if length == size else list(range(0, size, length))
    return [_crc(start + first, min(length, size - first)) for first in chosen]


def _crc(start: int, size: int) -> int:
    return zlib.crc32((ctypes.c_ubyte * size).from_address(start) if size else b"")


def _counters(tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...] | None:
    """Where tensors lie, and how often they were written to; None where that is not counted."""
    if any(t.is_inference() for t in tensors):
        return None
    return tuple((t.data_ptr(), t._version) for t in tensors)


@torch.no_grad()
def _sums(tensor: Tensor, rows: slice) -> Tensor:
    """The sums h of some rows, int64, on the tensor's device; the last row is filled with zeros."""
    kinds = {1: torch.int8, 2: torch.int16}
    # At most 32 bits a lane, so that int64 holds the products' differences whole.
    lanes = tensor.contiguous().view(-1).view(kinds.get(tensor.element_size(), torch.int32))
    rest = -len(lanes) % _LANES
    if rest:
        lanes = torch.cat([lanes, lanes.new_zeros(rest)])
    chosen, factors = lanes.view(-1, _LANES)[rows], _factors(tensor.device)
    parts = [chosen[k : k + _ROWS] for k in range(0, len(chosen), _ROWS)]
    return torch.cat([(part * factors).sum(1) for part in parts]) if parts else factors[:0]


@lru_cache
def _factors(device: torch.device) -> Tensor:
    """Odd 64-bit numbers, one a lane: splitmix64 of the lane's index, the same on every device."""
    x = torch.arange(1, _LANES + 1, dtype=torch.int64) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift)) * factor
    return ((x ^ (x >> 31)) | 1).to(device)
