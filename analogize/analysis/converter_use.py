"""What converters do to real activations: histograms of both sides, and the share they clip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analogize.crossbar.converter import Converter
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp, bypassed
from analogize.crossbar.stream import Stream
from analogize.evaluation.inference import undisturbed, unpack
from analogize.model.calls import device_of
from analogize.product import Product

_BINS = 60


class ConverterUse(NamedTuple):
    """The values that one converter meets in the digital model.

    Attributes:
        region: The region.
        name: ``"DAC"`` or ``"ADC"``.
        bits: Resolution, or None without a conversion.
        range: The converter's range in the model's units (of the column with the widest weights,
            or from the lowest to the highest end of all columns); None without one, where every
            vector has its own, and where an ADC covers every sum that a tile can produce.
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
    meetings = {op: (_Meeting(op.dac), _Meeting(op.adc, op.product)) for op, _, _ in found}

    def observe(op: AnalogOp, x: Tensor, y: Tensor) -> None:
        dac, adc = meetings[op]
        dac.add(x)
        adc.add(op.conversions(x, y))

    device = device_of(model)
    with undisturbed(model), bypassed(model, observe):
        for index, batch in enumerate(data):
            unpack(batch, index, device)[0](model)
    return tuple(
        meeting.use(region.name, name)
        for op, region, _ in found
        for name, meeting in zip(("DAC", "ADC"), meetings[op], strict=True)
        if meeting.values.seen
    )


class _Meeting:
    """The values that one converter has met."""

    def __init__(self, converter: Converter, product: Product | None = None) -> None:
        self.converter, self.values, self.beyond = converter, Stream(), 0
        self.ends: tuple[Tensor, Tensor] | None = None
        has_range = converter.bits is not None and converter.is_known
        if has_range and not converter.follows_vectors:
            low, high = converter.range
            if product is not None and low.ndim:
                low, high = product.output_channels(low), product.output_channels(high)
            self.ends = low, high

    def add(self, values: Tensor) -> None:
        self.values.add(values)
        if self.ends is not None:
            low, high = self.ends
            self.beyond += int(((values < low) | (values > high)).sum())

    def use(self, region: str, name: str) -> ConverterUse:
        values, counts = self.values.values()
        first, last = self.values.smallest, self.values.largest
        last = last if last > first else first + 1.0
        histogram = torch.histogram(values, _BINS, range=(first, last), weight=counts.float()).hist
        return ConverterUse(
            region=region,
            name=name,
            bits=self.converter.bits,
            range=None
            if self.ends is None
            else (float(self.ends[0].min()), float(self.ends[1].max())),
            clipped=self.beyond / self.values.seen,
            counts=tuple(histogram.round().long().tolist()),
            edges=(first, last),
        )
