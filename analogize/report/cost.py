"""A first-order estimate of what one run of the example inputs costs on the hardware.

For a region whose matrix has ``groups`` blocks of K rows and N columns, on tiles of R x C, and that
multiplies V vectors (its multiply-accumulates over groups K N)::

    ADC conversions = V groups N ceil(K / R) i w     i, w: digits of an input, of a weight
    DAC conversions = V groups K ceil(N / C) i w     each digit of a weight has tiles of its own

With ``tiling: false`` the sum is converted once for all tiles: ceil(K / R) and the digits become 1;
without an array size so does ceil(N / C). A converter without bits converts nothing. ::

    energy = ADC conversions e_ADC + DAC conversions e_DAC + digital multiply-accumulates e_MAC

with the target's ``cost`` figures; where it has not all of them, the energy of the parts that it
knows, and the rest named. The cells' own energy, wires, memory, control, additions of partial sums
and everything digital that is no product are left out: a lower bound, no prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from analogize.crossbar.ops import AnalogOp
from analogize.devices.slicing import digits_of
from analogize.targets.spec import Cost

FORMULA = "ADC conversions e_ADC + DAC conversions e_DAC + digital multiply-accumulates e_MAC"


@dataclass(frozen=True)
class Work:
    """What the example inputs take; None where it is unknown.

    Attributes:
        tiles: crossbar tiles, shared ones once; None without an array size.
        adc: ADC conversions.
        dac: DAC conversions.
        analog_macs: multiply-accumulates of the analog regions.
        digital_macs: those of the products left digital.
        figures: the target's energies, or None.
    """

    tiles: int | None
    adc: int
    dac: int
    analog_macs: int
    digital_macs: int
    figures: Cost | None

    @property
    def _parts(self) -> tuple[tuple[int, float | None, str], ...]:
        cost = self.figures or Cost()
        return (
            (self.adc, cost.adc, "ADC conversions"),
            (self.dac, cost.dac, "DAC conversions"),
            (self.digital_macs, cost.digital_mac, "digital multiply-accumulates"),
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """What there is of, but of which the target gives no energy."""
        return tuple(name for count, each, name in self._parts if count and each is None)

    @property
    def known_energy(self) -> float:
        """Picojoules for the example inputs of what the target gives an energy of."""
        return sum(count * (each or 0.0) for count, each, _ in self._parts)

    @property
    def energy(self) -> float | None:
        """Picojoules for the example inputs; None where the target lacks a figure that counts."""
        return None if self.figures is None or self.unknown else self.known_energy

    def __str__(self) -> str:
        tiles = "" if self.tiles is None else f"{self.tiles} tiles, "
        text = (
            f"estimate for the example inputs: {tiles}{self.adc:,} ADC and {self.dac:,} DAC "
            f"conversions, {self.analog_macs:,} analog and {self.digital_macs:,} digital "
            "multiply-accumulates"
        )
        if self.figures is None:
            return f"{text}; the target gives no energies"
        energy = f"{text}; {self.known_energy * 1e-6:.4g} uJ = {FORMULA}"
        if not self.unknown:
            return energy
        unknown = " and ".join(self.unknown)
        return f"{energy}, without {unknown}: the target gives no energy of them"


def conversions(op: AnalogOp) -> tuple[int, int] | None:
    """(ADC, DAC) conversions of one operator on the example inputs; None if its work is unknown."""
    if op.region.macs is None:
        return None
    groups, rows, columns = op.product.matrix(op.array.shape)
    vectors = op.region.macs // (groups * rows * columns)
    size, high, wide, serial, slices = op.tile_size, 1, 1, 1, 1
    if size is not None:
        wide = ceil(columns / size.cols)
        if size.tiling:
            high, slices = ceil(rows / size.rows), op.array.cells_a_weight
            if size.input_bits is not None and op.dac.scale is not None:
                ends = (op.dac.low, op.dac.high)
                serial = digits_of(max(abs(float(end)) for end in ends), size.input_bits)
    adc = vectors * groups * columns * high * serial * slices if op.adc.bits is not None else 0
    dac = vectors * groups * rows * wide * serial * slices if op.dac.bits is not None else 0
    return adc, dac


def estimate(
    operators: tuple[AnalogOp, ...], tiles: int | None, total_macs: int | None
) -> Work | None:
    """The work of ``operators``, and of what was left digital; None if some of it is unknown.

    Args:
        operators: a model's analog operators.
        tiles: what they occupy.
        total_macs: multiply-accumulates of the whole model on the example inputs.
    """
    each = [conversions(op) for op in operators]
    analog = sum(op.region.macs or 0 for op in operators)
    if total_macs is None or not each or any(one is None for one in each):
        return None
    known = [one for one in each if one is not None]
    return Work(
        tiles=tiles,
        adc=sum(adc for adc, _ in known),
        dac=sum(dac for _, dac in known),
        analog_macs=analog,
        digital_macs=max(0, total_macs - analog),
        figures=operators[0].cost,
    )
