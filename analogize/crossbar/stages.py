"""From the ranges of an operator's DAC, array and ADC to the fixed numbers of its arithmetic.

The range of an ADC is kept in the model's units. Where all columns share it in *array units*, these
are the units of the column with the widest weights, and column c uses g_c / max(g) of it, where g_c
is a column's weight in one step, or at full conductance where weights are not quantized: then one
physical converter, with one step in accumulated codes, serves all columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.crossbar.arithmetic import Stages
from analogize.crossbar.array import WeightArray
from analogize.crossbar.converter import Converter
from analogize.crossbar.spans import Spans
from analogize.devices.cells import full_scale
from analogize.devices.reading import disturbance
from analogize.devices.slicing import whole_step
from analogize.product import Convolution, Product
from analogize.quantize import Bound
from analogize.targets.spec import Array


def derive(
    dac: Converter, array: WeightArray, adc: Converter, product: Product, size: Array | None
) -> Stages:
    """The fixed parts of one operator's arithmetic, without noise.

    Lays the range of an ADC that has a bound instead of calibration.
    """
    low, high = _dac_ends(dac)
    factor = torch.ones((), dtype=torch.float64, device=array.range.device)
    for scale in (dac.scale, array.output_scale):
        if scale is not None:
            factor = factor * scale.double()
    _lay_bound(dac, array, adc, max(-low, high))
    step, y_scale, y_low, y_high = _adc(dac, array, adc, product, factor)
    if adc.covers_all and array.scale is not None and dac.scale is not None:
        y_high = 2.0 ** ((adc.bits or 0) - 1) - 1
        units = whole_step(_largest_sum(array, product, size, max(-low, high)), y_high)
        y_low, step = -y_high, factor.new_tensor(units).float()
        y_scale = (factor * units).float()
    # Half a step beyond the last code still rounds onto it.
    edge = 0.0 if dac.scale is None else float(dac.scale.double())
    rescales = dac.scale is not None or array.output_scale is not None
    return Stages(
        x_scale=dac.scale,
        x_low=low,
        x_high=high,
        x_edges=(edge * (low - 0.5), edge * (high + 0.5)),
        step=step,
        y_scale=y_scale,
        y_low=y_low,
        y_high=y_high,
        gain=factor.float() if rescales and y_scale is None else None,
        spans=_spans(dac, array, product),
        shares=_shares(array, product) if adc.in_array_units else None,
        x_learning=dac.learning,
        y_learning=adc.learning,
    )


def with_noise(stages: Stages, array: WeightArray) -> Stages:
    """``stages`` with the noise that every product draws anew."""
    adc_range: Bound = 0.0
    if stages.step is not None:
        adc_range = (stages.y_high - stages.y_low) * stages.step
    drawn = disturbance(array.noise, array.width, adc_range, array.conductance, array.full)
    return stages._replace(disturb=drawn)


def gains(array: WeightArray) -> Tensor | None:
    """A column's weight in one step (at full conductance without bits); None if one is for all.

    Shape (columns,), double precision.
    """
    if array.range.ndim == 1 or array.range.is_meta or not array.is_known:
        return None
    full = full_scale(array.range[0], array.range[1]) if array.scale is None else array.scale
    return full.double() if isinstance(full, Tensor) and full.ndim else None


def in_units_of_range(stages: Stages, x: Tensor, y: Tensor) -> Tensor:
    """Digital sums ``y`` of the inputs ``x`` in the units in which an ADC's range is given.

    For a DAC with a range for every vector these are of vectors that span 1; in array units, of the
    column with the widest weights.
    """
    if stages.spans is not None:
        span = stages.spans.measure(x)[0]
        y = y / (span.squeeze(-1) if stages.spans.drops else span)
    return y if stages.shares is None else y / stages.shares.to(y.dtype)


def _shares(array: WeightArray, product: Product) -> Tensor | None:
    each = gains(array)
    return None if each is None else product.output_channels((each / each.max()).float())


def _dac_ends(dac: Converter) -> tuple[float, float]:
    """The smallest and the largest code of any vector."""
    assert isinstance(dac.low, float)
    assert isinstance(dac.high, float)
    return (-dac.high, dac.high) if dac.follows_vectors else (dac.low, dac.high)


def _spans(dac: Converter, array: WeightArray, product: Product) -> Spans | None:
    if not dac.follows_vectors or not isinstance(dac.high, float):
        return None
    summed = product.dimensions + 1 if isinstance(product, Convolution) else 1
    is_row = not isinstance(product, Convolution) and len(array.shape) == 1
    return Spans(tuple(range(-summed, 0)), dac.kind == "symmetric", dac.high, is_row)


def _lay_bound(dac: Converter, array: WeightArray, adc: Converter, largest_code: float) -> None:
    if adc.bound is None or dac.scale is None or not array.is_known or adc.range.is_meta:
        return
    each = gains(array)
    full = float(torch.as_tensor(array.full).max())
    if array.scale is not None:
        full *= float((array.scale.double() if each is None else each).max())
    half = adc.bound * largest_code * float(dac.scale.double()) * full
    adc.range.copy_(torch.tensor([-half, half]))
    adc.refresh()


def _adc(
    dac: Converter, array: WeightArray, adc: Converter, product: Product, factor: Tensor
) -> tuple[Tensor | None, Tensor | None, Bound, Bound]:
    """Step in accumulated array units, step in the model's units, and the ends of the codes."""
    if adc.scale is None:
        return None, None, 0.0, 0.0
    scale = adc.scale.double()
    if adc.range.ndim > 1:
        low, high = (_viewed(end, product) for end in (adc.low, adc.high))
        scale = product.output_channels(scale)
        return (scale / factor).float(), scale.float(), low, high
    each = gains(array) if adc.in_array_units else None
    if each is None:
        return (scale / factor).float(), adc.scale, adc.low, adc.high
    y_scale = scale * product.output_channels(each / each.max())
    step = y_scale / factor
    if array.output_scale is not None:
        # One number, because one converter serves all columns: not one rounded for each.
        step = scale / each.max() / (1.0 if dac.scale is None else dac.scale.double())
    return step.float(), y_scale.float(), adc.low, adc.high


def _viewed(end: Bound, product: Product) -> Bound:
    return product.output_channels(end) if isinstance(end, Tensor) else end


def _largest_sum(
    array: WeightArray, product: Product, size: Array | None, largest_input: float
) -> float:
    """The largest magnitude that one conversion can meet, in accumulated array units."""
    _, rows, _ = product.matrix(array.shape)
    if size is not None and size.tiling:
        rows = min(rows, size.rows)
        if size.input_bits is not None:
            largest_input = min(largest_input, 2.0**size.input_bits - 1)
    return rows * largest_input * float(torch.as_tensor(array.full).max())
