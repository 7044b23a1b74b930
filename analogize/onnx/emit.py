"""One analog call as standard ONNX operators.

In codes, as torch computes it (crossbar.py)::

    x -> QuantizeLinear(s_x, z_x) -> DequantizeLinear(1, z_x) -> Conv/MatMul -> Div(step)
      -> QuantizeLinear(1, z_y) -> DequantizeLinear(1, z_y) -> Mul(s_y)

Every scale but s_x is 1 and the division stands apart, so that onnxruntime's QDQ fusions, which
multiply by the reciprocal of the step and requantize constant float weights on their own, find no
pattern: this is what makes outputs equal torch's bit for bit. The ``qdq`` arithmetic invites them
instead, and ``integer`` multiplies integers explicitly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor

from analogize.converter import Converter
from analogize.onnx.describe import RegionPlan
from analogize.onnx.manifest import ROLE_KEY, Arithmetic
from analogize.product import Convolution

_ONE = np.array(1, np.float32)
_UNSIGNED: dict[int, Any] = {4: ml_dtypes.uint4, 8: np.uint8, 16: np.uint16}


class Body:
    """The nodes of one call as they are made, each with its role.

    Args:
        constant: makes a value of a name within the region and an array.
    """

    def __init__(self, constant: Callable[[str, npt.NDArray[Any]], ir.Value]) -> None:
        self.constant = constant
        self.nodes: list[tuple[str, ir.Node]] = []

    def add(
        self,
        role: str,
        step: str,
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Append a node; ``role/step`` becomes the end of its name."""
        node = ir.node(
            operator, list(inputs), attributes=attributes or {}, metadata_props={ROLE_KEY: role}
        )
        self.nodes.append((f"{role}/{step}" if step else role, node))
        return node.outputs[0]


def emit(
    body: Body,
    plan: RegionPlan,
    x: ir.Value,
    weight: ir.Value,
    rank: int,
    arithmetic: Arithmetic,
    output_padding: tuple[int, ...] | None = None,
) -> ir.Value:
    """Emit one call of ``plan``; returns its output.

    Args:
        body: receives nodes and constants.
        plan: the region.
        x: what enters the DAC.
        weight: the stored weights.
        rank: number of dimensions of ``x``.
        arithmetic: what the product is computed in.
        output_padding: of this call, if it is not the product's own.
    """
    unbatched = isinstance(plan.op.product, Convolution) and rank == plan.op.product.dimensions + 1
    axes = body.constant("mac/axes", np.array([0], np.int64)) if unbatched else None
    if axes is not None:
        x = body.add("mac", "batch", "Unsqueeze", [x, axes])
    if arithmetic == "integer" and takes_integers(plan):
        acc = _integer_product(body, plan, x, weight)
    else:
        x = _dac(body, plan.op.dac, x)
        acc = _product(body, plan, x, _weights(body, plan, weight), output_padding)
    y = _adc(body, plan, acc, arithmetic)
    return y if axes is None else body.add("mac", "unbatch", "Squeeze", [y, axes])


def takes_integers(plan: RegionPlan) -> bool:
    """Whether ConvInteger or MatMulInteger can compute this region."""
    product, dac = plan.op.product, plan.op.dac
    is_transposed = isinstance(product, Convolution) and product.transposed
    zero = plan.stored.zero_point
    return (
        not is_transposed
        and plan.noise == "none"
        and plan.stored.storage == "UINT8"
        and zero is not None
        and zero.ndim == 0
        and dac.scale is not None
        and not plan.op.array.folded
        and _converter_clip(dac) is None
        and _code_type(dac)[0] is np.uint8
    )


def _code_type(converter: Converter) -> tuple[Any, int]:
    """The unsigned type that holds a converter's codes, and the zero point."""
    bits = converter.bits or 0
    zero = -int(converter.low)
    return next(t for b, t in _UNSIGNED.items() if b >= bits), zero


def _converter_clip(converter: Converter) -> tuple[float, float] | None:
    """Zero-centred limits, where the type's own saturation is not them already."""
    kind, zero = _code_type(converter)
    bits = {ml_dtypes.uint4: 4, np.uint8: 8, np.uint16: 16}[kind]
    exact = int(converter.low) == -zero and int(converter.high) == 2**bits - 1 - zero
    return None if exact else (float(converter.low), float(converter.high))


def _quantize(
    body: Body, role: str, converter: Converter, x: ir.Value, scale: npt.NDArray[Any]
) -> tuple[ir.Value, ir.Value]:
    """``x`` as stored codes, and their zero point."""
    kind, zero = _code_type(converter)
    point = np.array(zero, np.int32).astype(kind)
    zero_value = body.constant(f"{role}/zero_point", point)
    inputs = [x, body.constant(f"{role}/scale", scale), zero_value]
    return body.add(role, "quantize", "QuantizeLinear", inputs), zero_value


def _clip(body: Body, role: str, x: ir.Value, limits: tuple[float, float]) -> ir.Value:
    low = body.constant(f"{role}/low", np.array(limits[0], np.float32))
    high = body.constant(f"{role}/high", np.array(limits[1], np.float32))
    return body.add(role, "clip", "Clip", [x, low, high])


def _dac(body: Body, dac: Converter, x: ir.Value) -> ir.Value:
    """Zero-centred codes as floats."""
    if dac.scale is None:
        return x
    codes, zero = _quantize(body, "dac", dac, x, _array(dac.scale))
    one = body.constant("one", _ONE)
    x = body.add("dac", "dequantize", "DequantizeLinear", [codes, one, zero])
    limits = _converter_clip(dac)
    return x if limits is None else _clip(body, "dac", x, limits)


def _weights(body: Body, plan: RegionPlan, weight: ir.Value) -> ir.Value:
    """Weights in array units as floats, with noise if it is drawn at run time."""
    stored = plan.stored
    if stored.zero_point is not None:
        scale = body.constant("weight/scale", stored.scale)
        zero = body.constant("weight/zero_point", stored.zero_point)
        axis = {} if stored.axis is None else {"axis": stored.axis}
        weight = body.add("weight", "dequantize", "DequantizeLinear", [weight, scale, zero], axis)
    total = weight
    for number, (sigma, model) in enumerate(plan.deviations):
        role, end = "noise", str(number) if number else ""
        drawn = body.add(role, f"draw{end}", "RandomNormalLike", [weight], {"dtype": 1})
        factor = body.constant(f"noise/sigma{end}", sigma)
        drawn = body.add(role, f"scale{end}", "Mul", [drawn, factor])
        if getattr(model, "eta_std", 0.0):
            attributes = {"shape": [1], "mean": float(model.eta), "scale": float(model.eta_std)}
            level = body.add(role, f"level{end}", "RandomNormal", [], attributes)
            drawn = body.add(role, f"at_level{end}", "Mul", [drawn, level])
        total = body.add(role, f"add{end}", "Add", [total, drawn])
    return total


def _product(
    body: Body,
    plan: RegionPlan,
    x: ir.Value,
    weight: ir.Value,
    output_padding: tuple[int, ...] | None,
) -> ir.Value:
    product = plan.op.product
    if not isinstance(product, Convolution):
        return body.add("mac", "", "MatMul", [x, weight])
    operator = "ConvTranspose" if product.transposed else "Conv"
    attributes = _conv_attributes(plan, product)
    if product.transposed:
        extra = product.output_padding if output_padding is None else output_padding
        extra = extra * product.dimensions if len(extra) == 1 else extra
        attributes["output_padding"] = list(extra)
    return body.add("mac", "", operator, [x, weight], attributes)


def _conv_attributes(plan: RegionPlan, product: Convolution) -> dict[str, Any]:
    return {
        "strides": list(product.stride),
        "pads": [*product.padding, *product.padding],
        "dilations": list(product.dilation),
        "group": product.groups,
        "kernel_shape": list(plan.op.array.shape[2:]),
    }


def _integer_product(body: Body, plan: RegionPlan, x: ir.Value, weight: ir.Value) -> ir.Value:
    """DAC codes times weight codes in int32; exact, and faster than floats."""
    dac, product = plan.op.dac, plan.op.product
    assert dac.scale is not None
    assert plan.stored.zero_point is not None
    codes, zero = _quantize(body, "dac", dac, x, _array(dac.scale))
    inputs = [codes, weight, zero, body.constant("weight/zero_point", plan.stored.zero_point)]
    if isinstance(product, Convolution):
        acc = body.add("mac", "", "ConvInteger", inputs, _conv_attributes(plan, product))
    else:
        acc = body.add("mac", "", "MatMulInteger", inputs)
    return body.add("mac", "cast", "Cast", [acc], {"to": int(ir.DataType.FLOAT)})


def _adc(body: Body, plan: RegionPlan, acc: ir.Value, arithmetic: str) -> ir.Value:
    stages, adc = plan.op._stages, plan.op.adc
    if stages.step is None or stages.y_scale is None:
        if stages.gain is None:
            return acc
        return body.add("adc", "rescale", "Mul", [acc, body.constant("gain", _array(stages.gain))])
    step, y_scale = _array(stages.step), _array(stages.y_scale)
    limits = _converter_clip(adc)
    if arithmetic == "qdq" and plan.noise == "none" and limits is None and not step.ndim:
        codes, zero = _quantize(body, "adc", adc, acc, step)
        inputs = [codes, body.constant("adc/y_scale", y_scale), zero]
        return body.add("adc", "dequantize", "DequantizeLinear", inputs)
    acc = body.add("adc", "divide", "Div", [acc, body.constant("adc/step", step)])
    codes, zero = _quantize(body, "adc", adc, acc, _ONE)
    y = body.add("adc", "dequantize", "DequantizeLinear", [codes, body.constant("one", _ONE), zero])
    if limits is not None:
        y = _clip(body, "adc", y, limits)
    return body.add("adc", "rescale", "Mul", [y, body.constant("adc/y_scale", y_scale)])


def _array(values: Tensor) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy()
