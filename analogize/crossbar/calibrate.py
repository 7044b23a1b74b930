"""Calibration: fix the ranges of DACs and ADCs from the digital model's activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from analogize.crossbar.converter import Converter
from analogize.crossbar.ops import AnalogOp, bypassed, operators
from analogize.errors import CalibrationError
from analogize.model.calls import batch_call, device_of
from analogize.quantize import percentiles
from analogize.targets.spec import PercentileRange

# With a million values, the 0.1 % tail still holds a thousand.
_KEPT_VALUES = 2**20


class Sample:
    """A bounded uniform sample of a stream of values, to take percentiles from.

    Exact while the stream has at most ``capacity`` values. Beyond, every value of the stream has
    the same chance to be kept (Vitter's reservoir, decided a batch at a time), from a generator of
    its own: calibration neither uses nor moves torch's global random state.
    """

    def __init__(self, capacity: int = _KEPT_VALUES) -> None:
        self.capacity, self.seen = capacity, 0
        self.kept = torch.empty(0)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, values: Tensor) -> None:
        """Take in one tensor of any shape.

        Raises:
            CalibrationError: it holds NaN or infinite values.
        """
        flat = values.detach().flatten().float()
        if not bool(torch.isfinite(flat).all()):
            raise CalibrationError("the calibration data lead to NaN or infinite activations")
        total = self.seen + flat.numel()
        self.seen, before = total, self.seen
        if total <= self.capacity:
            self.kept = torch.cat([self.kept, flat.cpu()])
            return
        # How many of the kept come from this batch if all `total` are equally likely.
        share = min(flat.numel(), round(self.capacity * flat.numel() / total))
        old = self._choose(self.kept, min(self.capacity - share, before))
        self.kept = torch.cat([old, self._choose(flat, share).cpu()])

    def _choose(self, values: Tensor, count: int) -> Tensor:
        if count >= values.numel():
            return values
        index = torch.randint(values.numel(), (count,), generator=self._generator)
        return values[index.to(values.device)]


def calibrate(model: nn.Module, data: Iterable[Any], *, progress: bool = True) -> None:
    """Fix every uncalibrated and calibrated percentile range of ``model`` from ``data``.

    The batches pass through the digital model, with neither noise nor quantization, and the
    target's percentiles of what enters and leaves each array become the ranges of its DAC and ADC
    (Noisy Machines, section 5.2). Nothing is changed unless every range was found.

    Args:
        model: a rewritten model.
        data: a data loader or any iterable of batches: inputs, or (inputs, targets, ...).
        progress: show a progress bar.

    Raises:
        CalibrationError: no data, constant or non-finite activations, or a region never reached.
    """
    wanting = [op for op in operators(model) if _wants(op)]
    if not wanting:
        return
    samples = _sample(model, data, wanting, progress)
    found: list[tuple[Converter, float, float]] = []
    for op in wanting:
        pair = zip(("DAC", "ADC"), (op.dac, op.adc), samples[op], strict=True)
        for name, converter, sample in pair:
            if converter.wants_calibration:
                found.append((converter, *_range(op, name, converter, sample)))
    for converter, low, high in found:
        converter.calibrate(low, high)
    for op in wanting:
        op.refresh()


def _wants(op: AnalogOp) -> bool:
    return op.dac.wants_calibration or op.adc.wants_calibration


def _sample(
    model: nn.Module, data: Iterable[Any], wanting: list[AnalogOp], progress: bool
) -> dict[AnalogOp, tuple[Sample, Sample]]:
    samples = {op: (Sample(), Sample()) for op in wanting}

    def observe(op: AnalogOp, x: Tensor, y: Tensor) -> None:
        if op in samples:
            for values, sample in zip((x, op.conversions(y)), samples[op], strict=True):
                _add(op, values, sample)

    device = device_of(model)
    modes = [(m, m.training) for m in model.modules()]
    batches = 0
    try:
        model.eval()
        with torch.no_grad(), bypassed(model, observe):
            for batch in track(data, "Calibrating", disable=not progress, transient=True):
                batch_call(batch).to(device)(model)
                batches += 1
    finally:
        for module, training in modes:
            module.training = training
    if batches == 0:
        raise CalibrationError("the calibration data hold no batch")
    return samples


def _add(op: AnalogOp, values: Tensor, sample: Sample) -> None:
    try:
        sample.add(values)
    except CalibrationError as error:
        raise CalibrationError(f"region '{op.region.name}': {error}") from error


def _range(op: AnalogOp, name: str, converter: Converter, sample: Sample) -> tuple[float, float]:
    where = f"the {name} of region '{op.region.name}'"
    if sample.seen == 0:
        raise CalibrationError(
            f"no calibration batch reached {where}; use data that do, or keep it digital"
        )
    rule = converter.settings.range
    assert isinstance(rule, PercentileRange)
    low, high = percentiles(sample.kept, rule.low, rule.high).tolist()
    if not low < high:
        raise CalibrationError(
            f"{where} saw the constant value {low:g} between the percentiles {rule.low:g} and "
            f"{rule.high:g}; use calibration data that vary, wider percentiles, or a fixed range"
        )
    return low, high
