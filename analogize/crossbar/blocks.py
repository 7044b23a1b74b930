"""A chip drawn a block of weights at a time, so that only the chip itself is as large as they are.

Of most targets the draw of a weight depends on no other weight: the numbers come from named streams
(devices/streams.py), everything else is elementwise, or one value a channel. Whatever needs all
weights at once (wires, a reference column, a field over a tile, a function of the user's, noise in
proportion to a layer's spread) is drawn as a whole by ``WeightArray``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from analogize.crossbar import noise
from analogize.crossbar.conductances import scale_of_columns
from analogize.devices.cells import Reading
from analogize.devices.reading import read_once
from analogize.devices.streams import BlockDraws, OneDraw, advance, after
from analogize.product import Convolution, Product
from analogize.quantize import Bound
from analogize.targets import noise as models

if TYPE_CHECKING:
    from analogize.crossbar.array import WeightArray

# Weights of a block. What is computed on the way takes some 50 bytes for each of them.
BLOCK = 2**15
_LARGE = 2**17
# Numbers that torch's loops take at a time, the remainder by themselves and rounded otherwise.
_REGISTERS = 64


class Ends(NamedTuple):
    """What all weights of a channel share: the range, and the scale of the cells.

    Attributes:
        low: W_min in array units, viewed against the weights.
        high: W_max.
        full: the weight that takes the whole conductance range.
        factor: on what cells stand for, or None.
    """

    low: Bound
    high: Bound
    full: Bound = 0.0
    factor: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """Rows of weights in memory order, as a matrix.

    Attributes:
        shape: of all weights.
        lead: leading dimensions that a row has an index of; the numbers of a row lie in the others.
        first: the block's first row.
        last: one past its last.
    """

    shape: torch.Size
    lead: int
    first: int
    last: int

    def of(self, weights: Tensor) -> Tensor:
        """The block of ``weights``: shape (rows, numbers a row), a view where there is one."""
        rows = weights.view(-1, 1) if self.lead == len(self.shape) else weights
        rows = rows.flatten(0, self.lead - 1) if 1 < self.lead < len(self.shape) else rows
        return rows[self.first : self.last].flatten(1)

    def beside(self, bound: Bound) -> Bound:
        """What of ``bound``, viewed against all weights, belongs to the block."""
        return bound if not isinstance(bound, Tensor) or bound.ndim == 0 else self.rows_of(bound)

    def rows_of(self, bound: Tensor) -> Tensor:
        """As ``beside``, of one value a channel: shape (rows, 1)."""
        ones = [1] * (len(self.shape) - self.lead)
        whole = bound.expand(*self.shape[: self.lead], *ones)
        return whole.reshape(-1, 1)[self.first : self.last]

    def ends(self, ends: Ends) -> Ends:
        """The ends that belong to the block."""
        low, high, full, factor = ends
        factor = factor if factor is None else self.rows_of(factor)
        return Ends(self.beside(low), self.beside(high), self.beside(full), factor)


def blocks(product: Product, like: Tensor, by_channel: bool) -> Iterator[Block]:
    """Cut weights of the shape of ``like`` into blocks, in their order in memory.

    Args:
        product: what they are multiplied by.
        like: the weights.
        by_channel: whether a channel (a pair of channels of a transposed convolution) must lie in
            one row; otherwise rows are single numbers where memory allows it.
    """
    shape = like.shape
    lead = like.ndim if like.is_contiguous() else 1
    if by_channel:
        lead = _lead(product, shape)
    rows = prod(shape[:lead])
    row = shape.numel() // rows
    # Where a block ends with a vector register, every number is computed as among all of them.
    unit = _REGISTERS // gcd(row, _REGISTERS)
    step = max(2, BLOCK // row // unit * unit, unit)
    # Of a single row torch adds up in another order; more are left for the last block.
    starts = list(range(0, rows - 1, step)) or [0]
    for start, end in zip(starts, [*starts[1:], rows], strict=True):
        yield Block(shape, lead, start, end)


def _lead(product: Product, shape: torch.Size) -> int:
    if isinstance(product, Convolution):
        return 2 if product.transposed else 1
    return max(1, len(shape) - 1)


def is_large(shape: torch.Size) -> bool:
    """Whether weights are worth cutting."""
    return shape.numel() >= _LARGE and len(shape) > 1


def is_in_blocks(array: WeightArray, weight: Tensor) -> bool:
    """Whether the array's part of a chip is drawn in blocks: large weights, a suitable target."""
    if not is_large(weight.shape) or array.home is not array or weight.is_meta:
        return False
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        return False
    loud = [m for m in array.noise if not noise.is_silent(m) and not models.acts_on_signals(m)]
    drawn = [m for m in loud if not isinstance(m, models.ReadNoise | models.OutputNoise)]
    on_weights = [m for m in drawn if not models.acts_on_devices(m)]
    if len(on_weights) < len(drawn) and not _is_by_device(array):
        return False
    return len(on_weights) < 2 and all(
        isinstance(m, models.GaussianNoise) and not m.eta_std for m in on_weights
    )


def _is_by_device(array: WeightArray) -> bool:
    mapping = array.conductance
    assert mapping is not None, "the target's schema asks for it"
    product = array.product
    turned = isinstance(product, Convolution) and product.transposed
    if mapping.encoding == "offset" or (mapping.scale == "column" and turned):
        return False
    return all(models.is_by_device(m) for m in array.noise if models.acts_on_devices(m))


def is_by_channel(array: WeightArray) -> bool:
    """Whether ranges or scales differ from channel to channel."""
    mapping = array.conductance
    return array.range.ndim > 1 or (mapping is not None and mapping.scale == "column")


@torch.no_grad()
def draw(
    array: WeightArray, weight: Tensor, generator: torch.Generator, reading: Reading
) -> Tensor:
    """The array's part of a chip, in the weights' dtype; the bits of ``WeightArray.noisy``.

    Args:
        array: one of which ``is_in_blocks`` is true.
        weight: what it is to hold.
        generator: of noise on weights.
        reading: of the cells.
    """
    cut = list(blocks(array.product, weight, is_by_channel(array)))
    ends, digits = _ends(array, weight, cut), array.cell_bits is not None
    shape = (array.cells_a_weight, *weight.shape) if digits else weight.shape
    chip = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    planes = list(chip) if digits else [chip]
    sources = _sources(array, generator, weight.numel(), len(planes))
    parts = [reading.of_digit(index) for index in range(len(planes))] if digits else [reading]
    readings = [replace(p, draws=BlockDraws.of(p.draws, weight.numel())) for p in parts]
    for block in cut:
        clean, near = array.clean(block.of(weight), block.beside), block.ends(ends)
        held = array.digits(clean) if digits else [clean]
        for plane, digit, source, part in zip(planes, held, sources, readings, strict=True):
            block.of(plane).copy_(array.deviate(digit, near, source, part))
    return chip


def _ends(array: WeightArray, weight: Tensor, cut: list[Block]) -> Ends:
    low, high = array.span()
    mapping = array.conductance
    if mapping is None or mapping.scale != "column":
        return Ends(low, high, array.full)
    parts = [array.clean(block.of(weight), block.beside).abs().amax(1) for block in cut]
    return Ends(low, high, *scale_of_columns(array, torch.cat(parts)))


def _sources(
    array: WeightArray, generator: torch.Generator, size: int, planes: int
) -> list[BlockDraws | None]:
    """The draws of noise on the weights of each plane, or None where there is none."""
    drawn = [m for m in array.noise if isinstance(m, models.GaussianNoise)]
    if all(map(noise.is_silent, drawn)):
        return [None] * planes
    found: list[BlockDraws | None] = []
    for plane in range(planes):
        if plane:
            advance(generator, after(size))
        found.append(OneDraw.begin(generator, size))
    return found


@torch.no_grad()
def sums(array: WeightArray, chip: Tensor, reading: Reading, name: str) -> Tensor:
    """The absolute weights of every channel, added up, as one reading of every row finds them.

    Args:
        array: one whose product is no transposed convolution.
        chip: its part of a chip.
        reading: of the chip.
        name: of the draw of read noise.
    """
    low, high = array.span()
    ends, digits = Ends(low, high, array.full), array.cell_bits is not None
    like = chip[0] if digits else chip
    draws = BlockDraws.of(reading.draws, like.numel())
    # One tensor for all: many small ones that stay would keep the heap from being used again.
    found = torch.empty(0)
    for block in blocks(array.product, like, by_channel=True):
        part = torch.stack([block.of(d) for d in chip]) if digits else block.of(chip)
        near = block.ends(ends)
        width, mapping = near.high - near.low, array.conductance
        read = read_once(array.noise, part, width, mapping, near.full, draws, name)
        columns = array.whole(read).abs().sum(1)
        if not len(found):
            found = columns.new_empty(prod(block.shape[: block.lead]))
        found[block.first : block.last] = columns
    return found
