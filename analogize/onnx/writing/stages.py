"""The stages of an analog call as standard ONNX operators: DAC, weights, product, ADC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from torch import Tensor

from analogize.crossbar.spans import Spans
from analogize.onnx.writing.body import ONE, Array, Body, array
from analogize.onnx.writing.plan import RegionPlan
from analogize.product import Convolution

_UNSIGNED: dict[int, Any] = {4: ml_dtypes.uint4, 8: np.uint8, 16: np.uint16}


@dataclass(frozen=True)
class Codes:
    """The codes of a converter: zero-centred integers from ``low`` to ``high``.

    ``types`` are the bits of the types that the file may keep codes in.
    """

    bits: int
    low: float
    high: float
    types: tuple[int, ...] = (4, 8, 16)

    @property
    def width(self) -> int:
        """Bits of the unsigned type that holds them.

        4 bits only with a zero point of 0: onnxruntime 1.32 drops a Relu before a 4-bit
        QuantizeLinear whatever its zero point, although only 0 makes the Relu redundant.
        """
        small = self.low == 0 and 4 in self.types
        least = self.bits if small else max(self.bits, 8)
        return next(width for width in _UNSIGNED if width >= least)

    @property
    def has_type(self) -> bool:
        """Whether the file may keep them in a type of their own."""
        return self.width in self.types

    @property
    def zero_point(self) -> Array:
        """What the type adds to a code."""
        return np.array(-int(self.low), np.int32).astype(_UNSIGNED[self.width])

    @property
    def limits(self) -> tuple[float, float] | None:
        """``low`` and ``high``, where the type's own saturation is not them already."""
        fills = int(self.high) - int(self.low) == 2**self.width - 1
        return None if fills else (float(self.low), float(self.high))


def dac_codes(plan: RegionPlan) -> Codes:
    """The DAC's codes; the DAC has bits."""
    dac = plan.op.dac
    assert isinstance(dac.low, float)
    assert isinstance(dac.high, float)
    return Codes(dac.bits or 0, dac.low, dac.high, plan.widths)


def adc_codes(plan: RegionPlan) -> Codes:
    """The ADC's codes; the ADC has bits, and one range for all columns."""
    stages = plan.op._stages
    assert isinstance(stages.y_low, float)
    assert isinstance(stages.y_high, float)
    return Codes(plan.op.adc.bits or 0, stages.y_low, stages.y_high, plan.widths)


def quantize(
    body: Body, role: str, step: str, codes: Codes, x: ir.Value, scale: Array
) -> tuple[ir.Value, ir.Value]:
    """``x`` as stored codes, and their zero point."""
    zero = body.constant(f"{role}/zero_point", codes.zero_point)
    inputs = [x, body.constant(f"{role}/scale", scale), zero]
    stored = body.add(role, step, "QuantizeLinear", inputs)
    return stored, zero


def dac(body: Body, plan: RegionPlan, x: ir.Value) -> ir.Value:
    """Zero-centred input codes as floats."""
    if plan.op.dac.scale is None:
        return x
    if plan.op._stages.spans is not None:
        return vector_codes(body, plan.op._stages.spans, array(plan.op.dac.scale), x)
    codes = dac_codes(plan)
    if not codes.has_type:
        x = body.add(
            "dac", "divide", "Div", [x, body.constant("dac/scale", array(plan.op.dac.scale))]
        )
        return _rounded(body, "dac", "", x, codes)
    stored, zero = quantize(body, "dac", "quantize", codes, x, array(plan.op.dac.scale))
    one = body.constant("one", ONE)
    x = body.add("dac", "dequantize", "DequantizeLinear", [stored, one, zero])
    return _clip(body, "dac", "clip", x, codes)


def _rounded(body: Body, role: str, end: str, x: ir.Value, codes: Codes) -> ir.Value:
    """Zero-centred codes of ``x``, counted in steps, without a type that holds them."""
    x = body.add(role, f"{end}round", "Round", [x])
    ends = [body.number(f"{role}/low", codes.low), body.number(f"{role}/high", codes.high)]
    return body.add(role, f"{end}clip", "Clip", [x, *ends])


def _clip(body: Body, role: str, step: str, x: ir.Value, codes: Codes) -> ir.Value:
    if codes.limits is None:
        return x
    low, high = codes.limits
    ends = [body.number(f"{role}/low", low), body.number(f"{role}/high", high)]
    return body.add(role, step, "Clip", [x, *ends])


def weights(body: Body, plan: RegionPlan, weight: ir.Value) -> ir.Value:
    """Weights in array units as floats, without noise that is drawn at run time."""
    stored = plan.stored
    if stored.zero_point is None:
        return weight
    scale = body.constant("weight/scale", stored.scale)
    zero = body.constant("weight/zero_point", stored.zero_point)
    axis = {} if stored.axis is None else {"axis": stored.axis}
    return body.add("weight", "dequantize", "DequantizeLinear", [weight, scale, zero], axis)


def multiply(
    body: Body,
    plan: RegionPlan,
    x: ir.Value,
    weight: ir.Value,
    output_padding: tuple[int, ...] | None,
    where: tuple[str, str] = ("mac", ""),
) -> ir.Value:
    """The product; ``where`` is role and step of its node."""
    product = plan.op.product
    if not isinstance(product, Convolution):
        return body.add(*where, "MatMul", [x, weight])
    operator = "ConvTranspose" if product.transposed else "Conv"
    attributes = conv_attributes(plan, product)
    if product.transposed:
        extra = product.output_padding if output_padding is None else output_padding
        extra = extra * product.dimensions if len(extra) == 1 else extra
        attributes["output_padding"] = list(extra)
    return body.add(*where, operator, [x, weight], attributes)


def conv_attributes(plan: RegionPlan, product: Convolution) -> dict[str, Any]:
    """The attributes that every kind of ONNX convolution has."""
    return {
        "strides": list(product.stride),
        "pads": [*product.padding, *product.padding],
        "dilations": list(product.dilation),
        "group": product.groups,
        "kernel_shape": list(plan.op.array.shape[2:]),
    }


def convert(body: Body, plan: RegionPlan, acc: ir.Value, end: str = "") -> ir.Value:
    """The ADC's zero-centred codes of accumulated units, as floats; ``end`` parts its names."""
    stages = plan.op._stages
    assert stages.step is not None, "the ADC has bits"
    steps = body.constant("adc/step", array(stages.step))
    acc = body.add("adc", f"{end}divide", "Div", [acc, steps])
    if isinstance(stages.y_low, Tensor) and isinstance(stages.y_high, Tensor):
        # QuantizeLinear takes a zero point a channel along one axis only, and Clip none.
        low, high = (array(codes) for codes in (stages.y_low, stages.y_high))
        acc = body.add("adc", f"{end}round", "Round", [acc])
        acc = body.add("adc", f"{end}raise", "Max", [acc, body.constant("adc/low", low)])
        return body.add("adc", f"{end}lower", "Min", [acc, body.constant("adc/high", high)])
    codes = adc_codes(plan)
    if not codes.has_type:
        return _rounded(body, "adc", end, acc, codes)
    stored, zero = quantize(body, "adc", f"{end}quantize", codes, acc, ONE)
    one = body.constant("one", ONE)
    y = body.add("adc", f"{end}dequantize", "DequantizeLinear", [stored, one, zero])
    return _clip(body, "adc", f"{end}clip", y, codes)


def rescale(body: Body, plan: RegionPlan, y: ir.Value, x: ir.Value) -> ir.Value:
    """ADC codes, or accumulated units without an ADC, in the model's own units; ``x`` went in."""
    stages, name = plan.op._stages, "adc/y_scale"
    factor = stages.y_scale
    if stages.step is None:
        factor, name = stages.gain, "gain"
    if factor is not None:
        y = body.add("adc", "rescale", "Mul", [y, body.constant(name, array(factor))])
    if stages.spans is None:
        return y
    span, _ = measure(body, stages.spans, x)
    if stages.spans.drops:
        span = body.add("adc", "span", "Squeeze", [span, body.integers((-1,))])
    return body.add("adc", "multiply", "Mul", [y, span])


def measure(body: Body, spans: Spans, x: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Span of every vector of ``x``, and its smallest value or 0, which a symmetric DAC lacks."""
    zero, one = body.number("dac/nothing", 0.0), body.constant("one", ONE)
    axes = body.integers(spans.dims)
    if spans.symmetric:
        size = body.add("dac", "magnitude", "Abs", [x])
        span, low = body.add("dac", "largest", "ReduceMax", [size, axes], {"keepdims": 1}), None
    else:
        low = body.add("dac", "smallest", "ReduceMin", [x, axes], {"keepdims": 1})
        low = body.add("dac", "bottom", "Min", [low, zero])
        high = body.add("dac", "largest", "ReduceMax", [x, axes], {"keepdims": 1})
        high = body.add("dac", "top", "Max", [high, zero])
        span = body.add("dac", "range", "Sub", [high, low])
    varies = body.add("dac", "varies", "Greater", [span, zero])
    return body.add("dac", "span", "Where", [varies, span, one]), low


def vector_codes(body: Body, spans: Spans, scale: Array, x: ir.Value) -> ir.Value:
    """Zero-centred codes of ``x`` on a range for every vector."""
    span, low = measure(body, spans, x)
    step = body.add("dac", "step", "Mul", [span, body.constant("dac/scale", scale)])
    codes = body.add("dac", "divide", "Div", [x, step])
    codes = body.add("dac", "round", "Round", [codes])
    steps = body.number("dac/steps", spans.steps)
    if low is None:
        ends = [body.number("dac/low", -spans.steps), steps]
        return body.add("dac", "clip", "Clip", [codes, *ends])
    first = body.add("dac", "first", "Div", [low, step])
    first = body.add("dac", "first_code", "Round", [first])
    last = body.add("dac", "last_code", "Add", [first, steps])
    codes = body.add("dac", "raise", "Max", [codes, first])
    return body.add("dac", "lower", "Min", [codes, last])


def compensate(body: Body, plan: RegionPlan, y: ir.Value) -> ir.Value:
    """A programmed chip's output after the digital factor that makes up for drift."""
    if plan.correction is None:
        return y
    factor = body.constant("adc/correction", plan.correction)
    return body.add("adc", "compensate", "Mul", [y, factor])
