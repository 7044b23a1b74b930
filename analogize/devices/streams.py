"""The draws of a chip in blocks of weights: the numbers of large draws, never held as a whole.

A draw over cells has the shape (2, pairs, *weights). A block of weights takes a piece of each of
these planes, so that one draw is read at several places at once: each has a generator of its own,
brought there by drawing and discarding, which costs half of drawing normal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from analogize.devices.random import NORMAL, Draws

# Numbers that a stream holds at a time. Normal numbers are made of 16 uniform ones at a time, and
# the last 16 of a draw of another length are drawn twice.
_PIECE, _TOGETHER = 2**14, 16


class Stream:
    """The numbers of one draw from some place on, in order; the bits of ``random.chip_draw``.

    Args:
        generator: at that place; it is used up.
        kind: ``"normal"`` or ``"uniform"``.
        left: numbers of the draw from there on, at least 16.
        skipped: how many of them come before the first that is wanted.
    """

    def __init__(self, generator: torch.Generator, kind: str, left: int, skipped: int) -> None:
        self._generator, self._kind, self._left = generator, kind, left
        self._held = torch.empty(0)
        if skipped:
            self._next()
            self._held = self._held[skipped:]

    def fill(self, out: Tensor) -> None:
        """Write the next numbers into ``out``, one dimension, of any device and floating dtype."""
        is_direct = out.dtype == torch.float32 and out.is_cpu
        done, wanted = 0, out.numel()
        while done < wanted:
            if not self._held.numel():
                count = self._wholly(wanted - done)
                if is_direct and count:
                    self._draw(out[done : done + count])
                    done += count
                    continue
                self._next()
            part = self._held[: wanted - done]
            out[done : done + len(part)] = part
            self._held = self._held[len(part) :]
            done += len(part)

    def _wholly(self, wanted: int) -> int:
        """How many of the next numbers can be drawn by themselves: of 16 at a time, or all."""
        count = wanted if wanted == self._left else wanted - wanted % _TOGETHER
        return count if self._left - count >= _TOGETHER or count == self._left else 0

    def _next(self) -> None:
        count = self._left if self._left < 2 * _PIECE else _PIECE
        self._held = torch.empty(count, dtype=torch.float32, device="cpu")
        self._draw(self._held)

    def _draw(self, out: Tensor) -> None:
        (out.normal_ if self._kind == "normal" else out.uniform_)(generator=self._generator)
        self._left -= out.numel()


def streams(generator: torch.Generator, kind: str, planes: int, size: int) -> list[Stream]:
    """One stream for each of the ``planes`` of a draw, of ``size`` numbers each."""
    found, at = [], 0
    for plane in range(planes):
        skipped = plane * size % _TOGETHER
        advance(generator, plane * size - skipped - at)
        at = plane * size - skipped
        own = torch.Generator("cpu")
        own.set_state(generator.get_state())
        found.append(Stream(own, kind, planes * size - at, skipped))
    return found


def after(size: int) -> int:
    """How far a draw of ``size`` normal numbers, 16 or more, takes its generator."""
    return size + (_TOGETHER if size % _TOGETHER else 0)


def advance(generator: torch.Generator, count: int) -> None:
    """Take ``generator`` as far as drawing ``count`` float32 numbers would."""
    room = torch.empty(_PIECE // 2, dtype=torch.int64, device="cpu")
    for begin in range(0, count, _PIECE):
        # 64 random bits are two draws of 32, and nothing is computed from them.
        room[: min(_PIECE, count - begin) // 2].random_(generator=generator)
    if count % 2:
        torch.empty(1, dtype=torch.float32, device="cpu").uniform_(generator=generator)


@dataclass(frozen=True)
class BlockDraws(Draws):
    """A chip's draws, handed out block after block: shapes (..., rows, numbers a row).

    Every draw must be asked for once a block, and the blocks in their order.

    Attributes:
        size: weights in all, at least 16.
        begun: the streams of every draw that was asked for.
    """

    size: int = 0
    begun: dict[str, list[Stream]] = field(default_factory=dict)

    @classmethod
    def of(cls, draws: Draws, size: int) -> BlockDraws:
        """The chip's ``draws`` in blocks."""
        return cls(draws.key, size=size)

    def part(self, name: str) -> BlockDraws:
        """Draws of a part of the array, independent of the others."""
        return replace(self, key=f"{self.key}/{name}", begun={})

    def _draw(self, kind: str, name: str, like: Tensor) -> Tensor:
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        planes = out.view(-1, like.shape[-2] * like.shape[-1])
        if name not in self.begun:
            generator = self.generator(name)
            assert generator is not None, "a chip has a key, and no seed of a pass"
            self.begun[name] = streams(generator, kind, len(planes), self.size)
        for stream, plane in zip(self.begun[name], planes, strict=True):
            stream.fill(plane)
        return out


class OneDraw(BlockDraws):
    """The one normal draw over all weights that a generator gives, whatever part asks for it."""

    @classmethod
    def begin(cls, generator: torch.Generator, size: int) -> OneDraw:
        """The draw that ``generator`` is at; it is left where it is."""
        return cls("", size=size, begun={NORMAL: streams(generator, "normal", 1, size)})

    def part(self, _: str) -> OneDraw:
        """Itself: a generator goes on where it is."""
        return self
