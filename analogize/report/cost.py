"""A first-order estimate of what one inference costs on the hardware: energy, latency, area.

For a region whose matrix has ``groups`` blocks of K rows and N columns, on tiles of R x C, and that
multiplies V vectors an inference (its multiply-accumulates over groups K N)::

    tile MVMs       = V groups ceil(K / R) ceil(N / C) i w    i, w: digits of an input, of a weight
    ADC conversions = V groups N ceil(K / R) i w
    DAC conversions = V groups K ceil(N / C) i w    each digit of a weight has tiles of its own

With ``tiling: false`` the sum is converted once for all tiles: ceil(K / R) of the conversions and
the digits become 1; without an array size so does ceil(N / C), and a matrix is one tile. Blocks of
a grouped product that share a tile share its MVM. A converter without bits converts nothing. A DAC
range a vector divides every value that enters by its vector's range and multiplies every value that
leaves by it, digitally: rescalings = values that enter + V groups N, each a multiplication. ::

    energy  = analog + (digital multiply-accumulates + rescalings) e_MAC
    analog  = ADC conversions e_ADC + DAC conversions e_DAC, or
              tile MVMs e_MVM, or multiply-accumulates e_MAC    as the target's ``cost`` gives it
    latency = sum over regions of V i t_MVM    tiles of a region at once, one vector after another
    interval = the largest of them             regions as a pipeline
    area    = tiles a_tile

A lower bound, no prediction: ``Work.uncounted`` names what is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from analogize.crossbar.ops import AnalogOp
from analogize.devices.slicing import digits_of
from analogize.devices.tiles import blocks_a_tile, count
from analogize.display.tables import text
from analogize.product import Convolution
from analogize.report.cost_table import cost_table
from analogize.targets.spec import Cost

_CONVERTERS = (
    "cells, drivers, wires, memory, control, additions of partial sums, digital operations that "
    "are no products"
)
_TILES = (
    "what the published figure leaves out, memory and wires between tiles, additions of partial "
    "sums, digital operations that are no products"
)


@dataclass(frozen=True)
class Layer:
    """What one region takes for one inference.

    Attributes:
        region: its name.
        tiles: crossbar tiles; 0 where another region's array is used, None without a size.
        vectors: vectors that are multiplied.
        mvms: multiplications of a vector by a tile.
        steps: of them, one after another.
        adc: ADC conversions.
        dac: DAC conversions.
        macs: multiply-accumulates.
        used: share of its tiles' cells that are in use.
        energy: picojoules of what the target gives figures of; None where it gives none.
        latency: nanoseconds, or None.
        rescalings: digital multiplications by the ranges of input vectors.
    """

    region: str
    tiles: int | None
    vectors: int
    mvms: int
    steps: int
    adc: int
    dac: int
    macs: int
    used: float | None
    energy: float | None
    latency: float | None
    rescalings: int = 0


@dataclass(frozen=True)
class Work:
    """What one inference takes; None where it is unknown.

    Attributes:
        tiles: crossbar tiles, shared ones once; None without an array size.
        layers: every analog region.
        digital_macs: multiply-accumulates of the products left digital.
        figures: the target's, or None.
        samples: inferences of the example inputs, which everything is divided by.
    """

    tiles: int | None
    layers: tuple[Layer, ...]
    digital_macs: int
    figures: Cost | None
    samples: int = 1

    @property
    def adc(self) -> int:
        """ADC conversions."""
        return sum(layer.adc for layer in self.layers)

    @property
    def dac(self) -> int:
        """DAC conversions."""
        return sum(layer.dac for layer in self.layers)

    @property
    def mvms(self) -> int:
        """Multiplications of a vector by a tile."""
        return sum(layer.mvms for layer in self.layers)

    @property
    def rescalings(self) -> int:
        """Digital multiplications by the ranges of input vectors."""
        return sum(layer.rescalings for layer in self.layers)

    @property
    def analog_macs(self) -> int:
        """Multiply-accumulates of the analog regions."""
        return sum(layer.macs for layer in self.layers)

    @property
    def _parts(self) -> tuple[tuple[int, float | None, str], ...]:
        cost = self.figures or Cost()
        digital = (
            (self.digital_macs, cost.digital_mac, "digital multiply-accumulates"),
            (self.rescalings, cost.digital_mac, "rescalings of vectors"),
        )
        if cost.of_a_tile:
            untold = sum(x.mvms for x in self.layers if x.energy is None)
            return (untold, None, "MVMs (no size of a tile)"), *digital
        return (
            (self.adc, cost.adc, "ADC conversions"),
            (self.dac, cost.dac, "DAC conversions"),
            *digital,
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """What there is of, but of which the target gives no energy."""
        return tuple(name for count, each, name in self._parts if count and each is None)

    @property
    def uncounted(self) -> str:
        """What no figure of the target is about, in words."""
        return _TILES if (self.figures or Cost()).of_a_tile else _CONVERTERS

    @property
    def known_energy(self) -> float:
        """Picojoules an inference of what the target gives an energy of."""
        digital = (self.figures or Cost()).digital_mac or 0.0
        analog = sum(x.energy or 0.0 for x in self.layers)
        return analog + (self.digital_macs + self.rescalings) * digital

    @property
    def energy(self) -> float | None:
        """Picojoules an inference; None where the target lacks a figure that counts."""
        return None if self.figures is None or self.unknown else self.known_energy

    @property
    def tops_per_watt(self) -> float | None:
        """Operations (two a multiply-accumulate) per picojoule of the known energy."""
        macs = self.analog_macs + (self.digital_macs if "digital" not in str(self.unknown) else 0)
        return 2 * macs / self.known_energy if self.known_energy else None

    @property
    def latency(self) -> float | None:
        """Nanoseconds an inference, one region after another; None without a latency."""
        known = [layer.latency for layer in self.layers if layer.latency is not None]
        return sum(known) if len(known) == len(self.layers) else None

    @property
    def interval(self) -> float | None:
        """Nanoseconds from one inference to the next, with all regions at work at once."""
        known = [layer.latency for layer in self.layers if layer.latency is not None]
        return max(known) if len(known) == len(self.layers) else None

    @property
    def area(self) -> float | None:
        """Square millimetres of all tiles, or None."""
        each = (self.figures or Cost()).tile_area
        return None if each is None or self.tiles is None else each * self.tiles

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a region, for tables and files; energies in pJ, latencies in ns."""
        return [vars(layer) for layer in self.layers]

    def table(self) -> str:
        """What every region takes, as a table, and the sums below."""
        return text(cost_table(self.layers), str(self))

    def __str__(self) -> str:
        tiles = "" if self.tiles is None else f"{self.tiles} tiles, "
        words = (
            f"estimate per inference: {tiles}{self.mvms:,} MVMs of a tile, {self.adc:,} ADC and "
            f"{self.dac:,} DAC conversions, {self.analog_macs:,} analog and "
            f"{self.digital_macs:,} digital multiply-accumulates"
        )
        if self.rescalings:
            words += f", {self.rescalings:,} digital rescalings of vectors"
        if self.figures is None:
            return f"{words}; the target gives no energies"
        if self.known_energy:
            words += f"; {self.known_energy * 1e-6:.4g} uJ ({self.tops_per_watt:.3g} TOPS/W)"
        if self.latency is not None and self.interval is not None:
            words += f"; {self.latency * 1e-3:.4g} us, one every {self.interval * 1e-3:.4g} us"
        if self.area is not None:
            words += f"; {self.area:.4g} mm2"
        if self.unknown:
            words += f", without {' and '.join(self.unknown)}: the target gives no energy of them"
        return f"{words}. Not counted: {self.uncounted}"


def _layer(op: AnalogOp, region: str, samples: int, owns: bool, cost: Cost) -> Layer | None:
    """What one operator takes an inference; None if its work is unknown."""
    if op.region.macs is None:
        return None
    macs = op.region.macs // samples
    groups, rows, columns = op.product.matrix(op.array.shape)
    vectors = macs // (groups * rows * columns)
    size, high, wide, serial, slices = op.tile_size, 1, 1, 1, 1
    tiles, mvms_a_vector, used = None, groups, None
    if size is not None:
        shape, each = op.array.shape, op.array.cells_a_weight
        wide, down = ceil(columns / size.cols), ceil(rows / size.rows)
        together = max(1, blocks_a_tile(op.product, shape, size.rows, size.cols))
        mvms_a_vector = ceil(groups / together) * down * wide * each
        tiles = count(op.product, shape, size.rows, size.cols) * each
        used = groups * rows * columns * each / (tiles * size.rows * size.cols)
        if size.tiling:
            high, slices = down, each
            if size.input_bits is not None and op.dac.scale is not None:
                ends = (op.dac.low, op.dac.high)
                serial = digits_of(max(abs(float(end)) for end in ends), size.input_bits)
    mvms = vectors * mvms_a_vector * serial
    adc = vectors * groups * columns * high * serial * slices if op.adc.bits is not None else 0
    dac = vectors * groups * rows * wide * serial * slices if op.dac.bits is not None else 0
    each_mvm = None if size is None else cost.mvm_latency
    latency = None if each_mvm is None else vectors * serial * each_mvm
    energy = cost.analog(size, mvms, macs, adc, dac)
    return Layer(
        region,
        tiles if owns or tiles is None else 0,
        vectors,
        mvms,
        vectors * serial,
        adc,
        dac,
        macs,
        used,
        energy,
        latency,
        _rescalings(op, vectors, samples),
    )


def _rescalings(op: AnalogOp, vectors: int, samples: int) -> int:
    """Values that a DAC range a vector has multiplied, before the array and after it."""
    if op.dac.bits is None or op.dac.settings.range.kind != "vector":
        return 0
    groups, rows, columns = op.product.matrix(op.array.shape)
    entering, shape = vectors * groups * rows, op.region.input_shape
    if isinstance(op.product, Convolution) and shape is not None:
        # Patches overlap, and a value is divided once for all of them.
        entering = prod(shape) * op.region.calls // samples
    return entering + vectors * groups * columns


def estimate(
    operators: tuple[tuple[str, AnalogOp], ...],
    tiles: int | None,
    total_macs: int | None,
    samples: int = 1,
) -> Work | None:
    """The work of one inference, analog and digital; None if some of it is unknown.

    Args:
        operators: a model's analog operators, by name.
        tiles: what they occupy.
        total_macs: multiply-accumulates of the whole model on the example inputs.
        samples: samples in the example inputs.
    """
    if total_macs is None or not operators:
        return None
    macs = [op.region.macs or 0 for _, op in operators]
    first = operators[0][1]
    if not _is_batched(first) or any(each % samples for each in macs):
        samples = 1
    cost, met = first.cost or Cost(), set[int]()
    layers = []
    for name, op in operators:
        layers.append(_layer(op, name, samples, id(op.array.home) not in met, op.cost or cost))
        met.add(id(op.array.home))
    known = [layer for layer in layers if layer is not None]
    if len(known) < len(layers):
        return None
    digital = max(0, total_macs - sum(macs)) // samples
    return Work(tiles, tuple(known), digital, first.cost, samples)


def _is_batched(op: AnalogOp) -> bool:
    shape = op.region.input_shape
    if shape is None:
        return False
    inner = op.product.dimensions + 1 if isinstance(op.product, Convolution) else 1
    return len(shape) > inner
