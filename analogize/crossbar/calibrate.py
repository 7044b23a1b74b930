"""Calibration: fix the ranges of DACs and ADCs from the digital model's activations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from analogize.crossbar.converter import SMALLEST, Converter
from analogize.crossbar.fitting import (
    Ends,
    column_percentile,
    deviation,
    fit,
    squared_error,
    thinned,
)
from analogize.crossbar.ops import AnalogOp, bypassed, operators
from analogize.crossbar.stream import RESOLUTION, Columns, Stream
from analogize.display.progress import can_show_bar
from analogize.errors import CalibrationError
from analogize.model.calls import batch_call, device_of
from analogize.product import columns, output_channels
from analogize.targets import spec

# Decibels from which on nobody asks for another range.
_GOOD = 20.0
# Converters that a warning names.
_SHOWN = 5


def calibrate(model: nn.Module, data: Iterable[Any], *, progress: bool = True) -> None:
    """Fix every range of ``model`` that comes from data, calibrated before or not.

    The batches pass once through the digital model, with neither noise nor quantization, and the
    target's rules turn what enters and leaves each array into the ranges of its DAC and ADC
    (percentiles in Noisy Machines, section 5.2). Values are counted, not kept: beyond 2^16 of
    them, percentiles are exact to 0.4 % of themselves; extremes are exact always. A range a column
    is made from up to 2^20 values of all columns together, of least squares from 512 that stand for
    each column's.

    Data do not give every range. Where percentiles coincide although the values differ (one-hot
    inputs), the extremes are the range; of a constant, what lies between it and 0. A region that
    met only zeros (behind a dead ReLU, or after weights of zeros) keeps the range it had. Without
    one it waits: it gives zeros for zeros, and refuses anything else until it was calibrated on
    data that reach it. A warning names all of them. After an error nothing is changed.

    Args:
        model: a rewritten model.
        data: a data loader or any iterable of batches: inputs, or (inputs, targets, ...).
        progress: show a progress bar.

    Raises:
        CalibrationError: no data, nothing but zeros in every region, or non-finite activations.
    """
    watches = {op: _Watch(op) for op in operators(model) if _wants(op)}
    if not watches:
        return
    _run(model, data, watches, progress)
    found = [range_ for watch in watches.values() for range_ in watch.ranges()]
    if all(one.low is None for _, one in found):
        raise CalibrationError(
            f"the calibration data lead to nothing but zeros (up to {SMALLEST:g}) in every region, "
            "of which no range can be made; use data that vary"
        )
    for converter, one in found:
        if one.low is not None and one.high is not None:
            converter.calibrate(one.low, one.high)
            converter.quality, converter.better = one.quality, one.better
        elif not converter.is_known:
            converter.wait()
    for op in watches:
        op.refresh()
    _tell(found)


def _wants(op: AnalogOp) -> bool:
    return op.dac.wants_calibration or op.adc.wants_calibration


class _Found(NamedTuple):
    """What data give for one converter.

    Attributes:
        where: the converter and its region, in words.
        low: the smallest value of the range; None where the data hold only zeros, or nothing.
        high: the largest, likewise.
        quality: in decibels.
        better: the quality of other rules, where this one's is low.
        instead: what the range was made of, where it is not what the target's rule says.
    """

    where: str
    low: Tensor | None = None
    high: Tensor | None = None
    quality: float | None = None
    better: dict[str, float] = {}  # noqa: RUF012 - nobody writes to it
    instead: str | None = None


class _Watch:
    """What one operator's converters meet, in the units of their ranges."""

    def __init__(self, op: AnalogOp) -> None:
        self.op = op
        self.dac = Stream() if op.dac.wants_calibration else None
        self.adc: Stream | Columns | None = None
        if op.adc.wants_calibration:
            channels = output_channels(op.product, op.array.shape)
            is_whole = op.adc.settings.granularity == "tensor"
            self.adc = Stream() if is_whole else Columns(channels)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in one call's input and output."""
        try:
            if self.dac is not None:
                self.dac.add(x)
            if self.adc is not None:
                self._add_sums(self.op.conversions(x, y))
        except CalibrationError as error:
            raise CalibrationError(f"region '{self.op.region.name}': {error}") from error

    def _add_sums(self, y: Tensor) -> None:
        if isinstance(self.adc, Columns):
            y = columns(self.op.product, y, self.adc.kept.shape[1])
        assert self.adc is not None
        self.adc.add(y)

    def ranges(self) -> list[tuple[Converter, _Found]]:
        """The ranges found, each with its converter.

        Raises:
            CalibrationError: no batch came here, or values that give no range.
        """
        pairs = (("DAC", self.op.dac, self.dac), ("ADC", self.op.adc, self.adc))
        return [
            (converter, self._range(f"the {name} of region '{self.op.region.name}'", converter, s))
            for name, converter, s in pairs
            if s is not None
        ]

    def _range(self, where: str, converter: Converter, stream: Stream | Columns) -> _Found:
        rule = converter.rule
        assert rule is not None, "only such converters are watched"
        if stream.seen == 0:
            return _Found(where)
        resolution = 0.0
        if isinstance(stream, Columns):
            values, counts, (low, high) = _column_ranges(rule, converter, stream)
            extremes = stream.smallest, stream.largest
        else:
            try:
                values, counts = stream.values()
            except CalibrationError as error:
                raise CalibrationError(f"{where}: {error}") from error
            resolution = RESOLUTION if stream.is_rounded else 0.0
            low, high = fit(rule, values, counts, converter.bits, converter.kind, resolution)
            extremes = torch.tensor(stream.smallest), torch.tensor(stream.largest)
            if isinstance(rule, spec.MinMaxRange):
                low, high = extremes
        low, high, instead = _widened((low, high), extremes)
        if instead == _ZEROS:
            return _Found(where)
        held = values, counts, resolution
        quality = _quality(converter, (low, high), *held)
        if isinstance(stream, Columns) and quality < _GOOD:
            held = *_thinned(stream), resolution
        better = {} if quality >= _GOOD else _better(converter, *held)
        return _Found(where, low, high, quality, better, instead)


_EXTREMES = "percentiles that coincide, and have the range of all values instead"
_CONSTANT = "one constant value, and have a range from it to 0"
_ZEROS = "zeros"


def _widened(ends: Ends, extremes: Ends) -> tuple[Tensor, Tensor, str | None]:
    """Ends that hold different values, and what they were made of where not by the rule.

    A column that never varies takes what the widest column has.
    """
    (low, high), instead = ends, None
    smallest, largest = (end.to(low) for end in extremes)
    constant = torch.minimum(smallest, largest * 0), torch.maximum(largest, largest * 0)
    for other, why in (((smallest, largest), _EXTREMES), (constant, _CONSTANT)):
        empty = ~(high - low > SMALLEST)
        helped = empty & (other[1] - other[0] > SMALLEST)
        # Of columns, a constant one is nothing to tell: the others have a range to share.
        if not bool(helped.any()) or (why == _CONSTANT and not bool(empty.all())):
            continue
        low, high, instead = other[0].where(helped, low), other[1].where(helped, high), why
    empty = ~(high - low > SMALLEST)
    if bool(empty.all()):
        return low, high, _ZEROS
    widest = int((high - low).argmax())
    if low.ndim:
        low, high = low[widest].where(empty, low), high[widest].where(empty, high)
    return low, high, instead


def _tell(found: list[tuple[Converter, _Found]]) -> None:
    """Warn of every range that is not what the target's rule makes of data."""
    told: dict[str, list[str]] = {}
    for converter, one in found:
        why = one.instead
        if one.low is None:
            why = "nothing but zeros, if anything, and "
            why += "wait for a range" if converter.waits else "keep the range that they had"
        if why is not None:
            told.setdefault(why, []).append(one.where)
    for why, wheres in told.items():
        more = f" and {len(wheres) - _SHOWN} more" if len(wheres) > _SHOWN else ""
        warnings.warn(
            f"{', '.join(wheres[:_SHOWN])}{more} met {why}; calibrate with data that vary there, "
            "or give the target another rule",
            stacklevel=3,
        )


def _quality(
    converter: Converter, ends: Ends, values: Tensor, counts: Tensor, resolution: float
) -> float:
    """Power of the values over that of the errors on the grid over ``ends``, in decibels."""
    low, high = (end.double() for end in ends)
    if converter.kind == "affine":
        low, high = low.clamp(max=0), high.clamp(min=0)
    assert converter.bits is not None, "only converters with bits are calibrated"
    wide, weights = values.double(), counts.double().view(-1, *[1] * (values.ndim - 1))
    error = squared_error(wide, low, high, converter.bits, converter.kind, resolution)
    ratio = (wide.square() * weights).sum() / (error * weights).sum().clamp(min=1e-300)
    return float(10 * ratio.clamp(min=1e-30).log10())


def _better(
    converter: Converter, values: Tensor, counts: Tensor, resolution: float
) -> dict[str, float]:
    """The quality that other rules would give, by their kind."""
    found: dict[str, float] = {}
    for rule in (spec.MinMaxRange(), spec.LeastSquaresRange()):
        ends = fit(rule, values, counts, converter.bits, converter.kind, resolution)
        found[rule.kind] = _quality(converter, ends, values, counts, resolution)
    return found


def _column_ranges(
    rule: spec.CalibratedRange, converter: Converter, stream: Columns
) -> tuple[Tensor, Tensor, Ends]:
    """(values in any order, how often each occurs, minima and maxima)."""
    rows, extremes = stream.kept, (stream.smallest, stream.largest)
    counts = torch.ones(len(rows), dtype=torch.long)
    match rule:
        case spec.PercentileRange():
            low, high = (column_percentile(rows, each) for each in (rule.low, rule.high))
            return rows, counts, (low, high)
        case spec.MinMaxRange():
            return rows, counts, extremes
        case spec.StdRange():
            return rows, counts, deviation(rows, counts, rule.multiple, extremes)
        case spec.LeastSquaresRange():
            rows, counts = _thinned(stream)
            return rows, counts, fit(rule, rows, counts, converter.bits, converter.kind)
    raise AssertionError(f"unhandled range {rule!r}")


def _thinned(stream: Columns) -> tuple[Tensor, Tensor]:
    """Few values of every column, ascending, and how many each stands for."""
    rows, counts = thinned(stream.kept)
    # The extremes are known of all vectors, not of the kept ones alone.
    rows[0], rows[-1] = stream.smallest, stream.largest
    return rows, counts


def _run(
    model: nn.Module, data: Iterable[Any], watches: dict[AnalogOp, _Watch], progress: bool
) -> None:
    device = device_of(model)
    modes = [(m, m.training) for m in model.modules()]
    batches = 0

    def observe(op: AnalogOp, x: Tensor, y: Tensor) -> None:
        if op in watches:
            watches[op].add(x, y)

    try:
        model.eval()
        with torch.no_grad(), bypassed(model, observe):
            for batch in _shown(data, progress):
                batch_call(batch).to(device)(model)
                batches += 1
    finally:
        for module, training in modes:
            module.training = training
    if batches == 0:
        raise CalibrationError("the calibration data hold no batch")


def _shown(data: Iterable[Any], progress: bool) -> Iterable[Any]:
    """The batches with a bar on standard error, where one has a place."""
    console = Console(stderr=True)
    if not progress or not can_show_bar(console):
        return data
    return track(data, "Calibrating", console=console, transient=True)
