"""Which regions lose too much to clipping and rounding, and the setting that would help.

The quality of weights, or of what a converter met in calibration, is the power of the signal over
that of what clipping and rounding change, in decibels. Noise is not counted. ::

    10 log10( sum v^2 / sum (v - Q(v))^2 )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor

from analogize.crossbar.array import WeightArray
from analogize.crossbar.converter import Converter
from analogize.crossbar.located import Located
from analogize.crossbar.weight_range import find_range
from analogize.errors import PassError
from analogize.model.sharding import is_sharded
from analogize.quantize import Grid, clamp, fake_quantize, make_grid
from analogize.targets import spec

# 15 dB: errors of 18 % of the signal, root mean square. A grid of 4 bits over normally distributed
# values gives 20 dB, clipping them at two standard deviations 19 dB.
LEAST = 15.0
# Normally distributed weights reach 4 to 6 standard deviations.
_OUTLIER = 20.0
_SHOWN = 5
_OTHERS: tuple[tuple[str, dict[str, object]], ...] = (
    ("weights.granularity: channel", {"granularity": "channel"}),
    ("weights.range {kind: absmax}", {"range": spec.AbsMaxRange()}),
    (
        "weights {range: {kind: absmax}, granularity: channel}",
        {"range": spec.AbsMaxRange(), "granularity": "channel"},
    ),
)


@dataclass(frozen=True)
class Loss:
    """Something of a region that is held too coarsely.

    Attributes:
        region: its name.
        part: ``weights``, ``DAC`` or ``ADC``.
        words: how much is lost, and what would help.
        quality: in decibels; infinite where rounding and clipping are not what is wrong.
        macs: multiply-accumulates of the region, or None.
    """

    region: str
    part: str
    words: str
    quality: float
    macs: int | None


def losses(found: Sequence[Located]) -> tuple[Loss, ...]:
    """Everything below ``LEAST``, the worst first."""
    lost: list[Loss] = []
    for op, region, _ in found:
        parts = [("weights", _weights(op.array, op.stored.value()))]
        parts += [("DAC", _converter("dac", op.dac)), ("ADC", _converter("adc", op.adc))]
        lost += [Loss(region.name, part, *p, region.macs) for part, p in parts if p is not None]
    return tuple(sorted(lost, key=lambda loss: loss.quality))


def notes(lost: Sequence[Loss], analog_macs: int | None) -> list[str]:
    """The losses in words, for the summary; empty without any."""
    if not lost:
        return []
    work = {loss.region: loss.macs or 0 for loss in lost}
    share = f"{len(work)} regions"
    if analog_macs:
        share = f"{sum(work.values()) / analog_macs:.0%} of analog multiply-accumulates"
    first = f"{share} have weights or activations that the target holds badly (below {LEAST:g} dB)"
    shown = [f"{loss.region}: {loss.part} {loss.words}" for loss in lost[:_SHOWN]]
    left = len(lost) - len(shown)
    return [first, *shown, *([f"and {left} more of them"] if left else [])]


def decibels(signal: float, error: float) -> float:
    """The ratio of two powers; infinite without error."""
    return inf if error <= 0 else 10 * log10(max(signal, 1e-300) / error)


@torch.no_grad()
def _weights(array: WeightArray, weight: Tensor) -> tuple[str, float] | None:
    unknown = array.limits is None or weight.is_meta or is_sharded(weight)
    if unknown or weight.shape != array.shape:
        return None
    wide = weight.double()
    power = float(wide.square().sum())
    reach = float(wide.abs().max() / wide.std(correction=0).clamp(min=1e-30))
    quality = decibels(power, float((array.real(wide) - wide).square().sum()))
    if quality >= LEAST:
        is_one_scale = array.range.ndim == 1 and array.noise
        if reach < _OUTLIER or not is_one_scale:
            return None
        words = (
            f"reach {reach:.0f} standard deviations, so one scale leaves the others little of the "
            "range, and noise counts against them; weights.granularity: channel gives each column "
            "its own"
        )
        return words, inf
    words = f"{quality:.0f} dB, the largest at {reach:.0f} standard deviations"
    others = [(name, _other(array, wide, change, power)) for name, change in _OTHERS]
    # Of two that help alike, the smaller change.
    name, best = max(others, key=lambda other: round(min(max(other[1], -999.0), 999.0)))
    if best == inf:
        return f"{words}; {name} would clip nothing", quality
    if best < quality + 3:
        return f"{words}; no range helps, more bits would, or keep the region digital", quality
    return f"{words}; {name} would give {best:.0f} dB", quality


def _other(array: WeightArray, weight: Tensor, change: dict[str, object], power: float) -> float:
    settings = array.settings.model_copy(update=change)
    try:
        ends = find_range(weight, array.product, settings, array.name)
    except PassError:
        return -inf

    def viewed(end: float | Tensor) -> float | Tensor:
        has_channels = isinstance(end, Tensor) and end.ndim
        return array.product.channels(end, array.shape) if has_channels else end  # type: ignore[arg-type]

    held = clamp(weight, viewed(ends[0]), viewed(ends[1]))
    if settings.bits is not None:
        grid = make_grid(ends[0], ends[1], settings.bits, settings.grid)
        scale = viewed(grid.scale)
        assert isinstance(scale, Tensor)
        held = fake_quantize(held, Grid(scale, viewed(grid.low), viewed(grid.high)))
    return decibels(power, float((held - weight).square().sum()))


def _converter(key: str, converter: Converter) -> tuple[str, float] | None:
    if converter.quality is None or converter.quality >= LEAST:
        return None
    words = f"{converter.quality:.0f} dB on the calibration data"
    rule, best = max(converter.better.items(), key=lambda item: item[1], default=("", -inf))
    if best >= converter.quality + 3:
        return f"{words}; {key}.range {{kind: {rule}}} would give {best:.0f} dB", converter.quality
    finer = "dac.range {kind: vector}" if key == "dac" else "adc.granularity: channel"
    return f"{words}; {finer} or more bits may help", converter.quality
