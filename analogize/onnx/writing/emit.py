"""One analog call as standard ONNX operators.

In codes, as torch computes it (arithmetic.py)::

    x -> QuantizeLinear(s_x, z_x) -> DequantizeLinear(1, z_x) -> Conv/MatMul -> Div(step)
      -> QuantizeLinear(1, z_y) -> DequantizeLinear(1, z_y) -> Mul(s_y)

Every scale but s_x is 1 and the division stands apart, so that onnxruntime's QDQ fusions, which
multiply by the reciprocal of the step and requantize constant float weights on their own, find no
pattern: this is what makes outputs equal torch's bit for bit. The ``qdq`` arithmetic invites them
instead, and ``integer`` multiplies integers explicitly. Tiles that convert their own sums (see
tile_sums.py) are always computed in ``float``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor

from analogize.onnx.manifest import Arithmetic
from analogize.onnx.writing.body import Body, array
from analogize.onnx.writing.draws import noisy_product, noisy_weights
from analogize.onnx.writing.plan import RegionPlan
from analogize.onnx.writing.stages import (
    adc_codes,
    compensate,
    conv_attributes,
    convert,
    dac,
    dac_codes,
    multiply,
    quantize,
    rescale,
    weights,
)
from analogize.onnx.writing.tile_sums import tiled_sum
from analogize.product import Convolution


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
    op = plan.op
    unbatched = isinstance(op.product, Convolution) and rank == op.product.dimensions + 1
    if unbatched:
        x = body.add("mac", "batch", "Unsqueeze", [x, body.integers((0,))])
    if op.tiles is not None:
        codes, held = dac(body, plan, x), weights(body, plan, weight)
        y = tiled_sum(body, plan, op.tiles, codes, held, rank, output_padding)
        y = rescale(body, plan, y, x)
    elif arithmetic == "integer" and takes_integers(plan):
        y = _convert(body, plan, _integer_product(body, plan, x, weight), x, arithmetic)
    else:
        codes, held = dac(body, plan, x), noisy_weights(body, plan, weights(body, plan, weight))
        acc = multiply(body, plan, codes, held, output_padding)
        acc = noisy_product(body, plan, acc, codes, held, op.array.shape, output_padding)
        y = _convert(body, plan, acc, x, arithmetic)
    y = compensate(body, plan, y)
    return body.add("mac", "unbatch", "Squeeze", [y, body.integers((0,))]) if unbatched else y


def takes_integers(plan: RegionPlan) -> bool:
    """Whether ConvInteger or MatMulInteger can compute this region."""
    product, zero = plan.op.product, plan.stored.zero_point
    is_transposed = isinstance(product, Convolution) and product.transposed
    return (
        not is_transposed
        and plan.op.tiles is None
        and plan.kind == "none"
        and plan.stored.storage == "UINT8"
        and zero is not None
        and zero.ndim == 0
        and plan.op.dac.scale is not None
        and not plan.op.dac.follows_vectors
        and not plan.op.array.folded
        and dac_codes(plan).limits is None
        and dac_codes(plan).width == 8
    )


def _integer_product(body: Body, plan: RegionPlan, x: ir.Value, weight: ir.Value) -> ir.Value:
    """DAC codes times weight codes in int32; exact, and faster than floats."""
    scale, product = plan.op.dac.scale, plan.op.product
    assert scale is not None
    assert plan.stored.zero_point is not None
    codes, zero = quantize(body, "dac", "quantize", dac_codes(plan), x, array(scale))
    inputs = [codes, weight, zero, body.constant("weight/zero_point", plan.stored.zero_point)]
    if isinstance(product, Convolution):
        acc = body.add("mac", "", "ConvInteger", inputs, conv_attributes(plan, product))
    else:
        acc = body.add("mac", "", "MatMulInteger", inputs)
    return body.add("mac", "cast", "Cast", [acc], {"to": int(ir.DataType.FLOAT)})


def _convert(
    body: Body, plan: RegionPlan, acc: ir.Value, x: ir.Value, arithmetic: Arithmetic
) -> ir.Value:
    """The output in the model's own units; ``x`` went in."""
    stages = plan.op._stages
    if stages.step is None or stages.y_scale is None:
        return rescale(body, plan, acc, x)
    if arithmetic == "qdq" and plan.kind == "none" and _fuses(plan):
        step, y_scale = array(stages.step), array(stages.y_scale)
        stored, zero = quantize(body, "adc", "quantize", adc_codes(plan), acc, step)
        inputs = [stored, body.constant("adc/y_scale", np.asarray(y_scale)), zero]
        return body.add("adc", "dequantize", "DequantizeLinear", inputs)
    return rescale(body, plan, convert(body, plan, acc), x)


def _fuses(plan: RegionPlan) -> bool:
    """Whether one quantization with one scale is what the ADC does."""
    stages = plan.op._stages
    if stages.spans is not None or isinstance(stages.y_low, Tensor):
        return False
    numbers = [s for s in (stages.step, stages.y_scale) if s is not None]
    return adc_codes(plan).limits is None and all(s.ndim == 0 for s in numbers)
