"""What converters do to real activations: histograms of both sides, and the share they clip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analogize.crossbar.calibrate import Sample
from analogize.crossbar.converter import Converter
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp, bypassed
from analogize.evaluation.inference import undisturbed, unpack
from analogize.model.calls import device_of

_KEPT_VALUES = 2**16
_BINS = 60


class ConverterUse(NamedTuple):
    """The values that one converter meets in the digital model.

    Attributes:
        region: The region.
        name: ``"DAC"`` or ``"ADC"``.
        bits: Resolution, or None without a conversion.
        range: The converter's range in the model's units; None without one, and where an ADC covers
            every sum that a tile can produce.
        clipped: Share of the values beyond the range; 0 without one.
        counts: Histogram counts, in equal bins.
        edges: First and last edge of the histogram.
    """

    region: str
    name: str
    bits: int | None
    range: tuple[float, float] | None
    clipped: float
    counts: tuple[int, ...]
    edges: tuple[float, float]


@torch.no_grad()
def converter_use(model: nn.Module, data: Iterable[Any]) -> tuple[ConverterUse, ...]:
    """Run ``data`` through the digital products and look at what enters and leaves each array.

    Where tiles convert their own sums, the ADC meets these partial sums.

    Args:
        model: A rewritten model.
        data: Batches of (inputs, targets).

    Returns:
        A DAC and an ADC a region, in the order of the graph.

    Raises:
        CalibrationError: activations are NaN or infinite.
        EvaluationError: a batch of another form.
    """
    found = located(model)
    samples = {op: (Sample(_KEPT_VALUES), Sample(_KEPT_VALUES)) for op, _, _ in found}

    def observe(op: AnalogOp, x: Tensor, y: Tensor) -> None:
        for sample, values in zip(samples[op], (x, op.conversions(y)), strict=True):
            sample.add(values)

    device = device_of(model)
    with undisturbed(model), bypassed(model, observe):
        for index, batch in enumerate(data):
            unpack(batch, index, device)[0](model)
    return tuple(
        _use(region.name, name, converter, sample.kept)
        for op, region, _ in found
        for name, converter, sample in zip(
            ("DAC", "ADC"), (op.dac, op.adc), samples[op], strict=True
        )
        if sample.seen
    )


def _use(region: str, name: str, converter: Converter, values: Tensor) -> ConverterUse:
    ends, clipped = None, 0.0
    if converter.bits is not None and converter.is_known:
        low, high = converter.range.tolist()
        ends = low, high
        clipped = float(((values < low) | (values > high)).double().mean())
    first, last = float(values.min()), float(values.max())
    last = last if last > first else first + 1.0
    counts = torch.histc(values, _BINS, first, last).long().tolist()
    return ConverterUse(region, name, converter.bits, ends, clipped, tuple(counts), (first, last))
