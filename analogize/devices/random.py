"""Where an array's random numbers come from."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

# The draw that may be a part of a larger one.
NORMAL = "normal"
_PIECE = 2**20


class Place(NamedTuple):
    """A part of one larger draw that several arrays share.

    Attributes:
        key: of the larger draw.
        offset: where the part begins in it.
        total: numbers in the larger draw.
    """

    key: str
    offset: int
    total: int


@dataclass(frozen=True)
class Draws:
    """Named, independent random draws of one array.

    With a ``key`` alone, every name has a generator of its own, seeded by key and name on the CPU:
    a chip. The same device keeps its drift exponent when the chip is read at another time, and
    adding a model changes no other model's draws. With a ``seed`` too, the generator is on the
    tensor's own device: one forward pass. Without a key everything is drawn anew from torch's
    global generator.

    Attributes:
        key: what identifies the array, and its chip, or None.
        seed: of a forward pass, a tensor in compiled code; None for chips.
        place: where the draw ``NORMAL`` lies in a larger one, or None.
    """

    key: str | None = None
    seed: int | Tensor | None = None
    place: Place | None = None

    def part(self, name: str) -> Draws:
        """Draws of a part of the array, independent of the others."""
        return self if self.key is None else replace(self, key=f"{self.key}/{name}", place=None)

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Independent N(0, 1) values with the shape, dtype and device of ``like``."""
        return self._draw("normal", name, like)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """Independent values, uniform in [0, 1), with the shape and device of ``like``."""
        return self._draw("uniform", name, like)

    def _draw(self, kind: str, name: str, like: Tensor) -> Tensor:
        if self.key is None:
            return torch.randn_like(like) if kind == "normal" else torch.rand_like(like)
        if self.seed is None:
            generator = self.generator(name)
            assert generator is not None, "what has a key has a generator"
            return chip_draw(like, generator, kind)
        place = self.place if name == NORMAL else None
        place = place or Place(f"{self.key}/{name}", 0, like.numel())
        if isinstance(self.seed, Tensor):
            drawn = _compiled_draw(like, self.seed, kind, *place)
            assert isinstance(drawn, Tensor), "a draw is a tensor"
            return drawn
        return _placed(like, self.seed, kind, place)

    def generator(self, name: str) -> torch.Generator | None:
        """The CPU generator of the draw ``name``; None for torch's global one."""
        if self.key is None or isinstance(self.seed, Tensor):
            return None
        key = self.key if self.seed is None else f"{self.seed}/{self.key}"
        return torch.Generator("cpu").manual_seed(_hash(f"{key}/{name}"))


def chip_draw(like: Tensor, generator: torch.Generator, kind: str = "normal") -> Tensor:
    """The numbers of a chip: float32 ones from a CPU generator, in the shape and form of ``like``.

    Converted piece by piece, because a large array in half precision would otherwise need room for
    twice itself. A piece of a multiple of 16 numbers takes the generator as far as the same numbers
    of the whole do.
    """
    size, out = like.numel(), torch.empty_like(like, memory_format=torch.contiguous_format)
    flat = out.view(-1)
    begin = 0
    while begin < size:
        end = size if size - begin < 2 * _PIECE else begin + _PIECE
        drawn = torch.empty(end - begin, dtype=torch.float32)
        (drawn.normal_ if kind == "normal" else drawn.uniform_)(generator=generator)
        flat[begin:end] = drawn
        begin = end
    return out


def large_draw(like: Tensor, seed: int, kind: str, key: str, total: int) -> Tensor:
    """The whole draw ``key`` of the pass ``seed``: ``total`` numbers in a tensor of its own.

    Args:
        like: of the dtype and on the device that are wanted.
        seed: the pass's.
        kind: ``"normal"`` or ``"uniform"``.
        key: the draw's name.
        total: how many numbers.
    """
    generator = torch.Generator(like.device).manual_seed(_hash(f"{seed}/{key}"))
    drawn = torch.empty(total, dtype=like.dtype, device=like.device)
    return (drawn.normal_ if kind == "normal" else drawn.uniform_)(generator=generator)


class _Last(threading.local):
    """The last large draw of a thread, which the next array most likely needs again."""

    of: tuple[object, ...] | None = None
    drawn: Tensor | None = None


_last = _Last()


def _placed(like: Tensor, seed: int, kind: str, place: Place) -> Tensor:
    if place.total == like.numel():
        return large_draw(like, seed, kind, place.key, place.total).view(like.shape)
    asked = (seed, kind, place.key, place.total, like.dtype, like.device)
    if _last.drawn is None or _last.of != asked:
        _last.drawn = large_draw(like, seed, kind, place.key, place.total)
        _last.of = asked
    return _last.drawn[place.offset : place.offset + like.numel()].view(like.shape).clone()


@torch.library.custom_op("analogize::draw", mutates_args=())
def _compiled_draw(
    like: Tensor, seed: Tensor, kind: str, key: str, offset: int, total: int
) -> Tensor:
    """A draw in compiled code: the eager numbers, by the eager generator.

    Inductor's own generator for CPUs is scalar, an order of magnitude slower than eager torch's,
    and draws other values for the same seed.
    """
    drawn = _placed(like, int(seed), kind, Place(key, offset, total))
    return torch.empty_like(like).copy_(drawn)


@_compiled_draw.register_fake
def _(like: Tensor, seed: Tensor, kind: str, key: str, offset: int, total: int) -> Tensor:
    return torch.empty_like(like)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
