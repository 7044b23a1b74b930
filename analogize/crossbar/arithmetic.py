"""The arithmetic of one analog operator, forward and backward, as functions on tensors.

Forward, with zero-centred codes (see quantize.py)::

    x_code = clamp(round(x / s_x))                       DAC
    w_hat  = clamp(round(clip(w) / s_w)) + noise         array (see array.py)
    acc    = product(x_code, w_hat) + noise              noise of each product, if any
    y      = clamp(round(acc / y_step)) * s_y            ADC, y_step = float32(s_y / (s_x s_w))

A stage without bits is skipped. A DAC that finds a range for every vector (``Spans``) has the step
m s_x, where m is the span of the vector's values, and y is multiplied by m.

Backward: straight through every rounding, zero where a converter or the weight clipping saturates,
and with the *clean* weights, not the noisy ones (Noisy Machines, section 5.1). Codes and clean
weights are computed again on the way back instead of being kept, so that training needs hardly more
memory than the digital model.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogize.crossbar import straight
from analogize.crossbar.array import WeightArray
from analogize.crossbar.learned import (
    Learning,
    adc_gradient,
    dac_gradient,
    saturated,
    sums_rest,
)
from analogize.crossbar.rounding import convert
from analogize.crossbar.spans import Spans
from analogize.crossbar.straight import (
    input_codes,
    inputs_of_gradient,
    memory_for_codes,
    stop_outside,
    stop_saturated,
)
from analogize.devices.reading import Disturbance
from analogize.devices.signals import Signals
from analogize.product import Product
from analogize.quantize import Bound


class Stages(NamedTuple):
    """The fixed parts of one operator, as tensors and numbers.

    Attributes:
        x_scale: the DAC's step, 0-d, or None without a DAC.
        x_low: its smallest zero-centred code; ``x_high`` the largest.
        x_edges: the inputs beyond which it saturates.
        step: the ADC's step in accumulated array units, or None without an ADC.
        y_scale: the ADC's step in the model's units, or None.
        y_low: its smallest zero-centred code; ``y_high`` the largest; numbers, or one a channel,
            viewed against the product's output, as ``step`` and ``y_scale`` may be.
        gain: the model's units in one accumulated unit, where no ADC rescales; None for 1.
        disturb: noise that every product draws anew on what it accumulates, or None.
        spans: how the DAC finds a range for every vector, or None.
        shares: what of the ADC's range each column uses, viewed against the output; None for all.
        signals: what drivers, columns and converters do to signals, or None.
        corrections: digital factors of the tiles, viewed against the output, rows of tiles first;
            or None.
        x_learning: how the DAC's range is learned; None where it is fixed.
        y_learning: how the ADC's is.
    """

    x_scale: Tensor | None
    x_low: float
    x_high: float
    x_edges: tuple[float, float]
    step: Tensor | None
    y_scale: Tensor | None
    y_low: Bound
    y_high: Bound
    gain: Tensor | None
    disturb: Disturbance | None = None
    spans: Spans | None = None
    shares: Tensor | None = None
    signals: Signals | None = None
    corrections: Tensor | None = None
    x_learning: Learning | None = None
    y_learning: Learning | None = None


class Dtypes(NamedTuple):
    """What one call computes in: ``product`` for the array, ``output`` for what it returns."""

    product: torch.dtype
    output: torch.dtype


def infer(x: Tensor, weights: Tensor, product: Product, stages: Stages, dtypes: Dtypes) -> Tensor:
    """The forward pass without a graph; ``weights`` are in array units."""
    acc = _accumulate(x, weights, product, stages, dtypes)
    if stages.step is not None and stages.y_scale is not None:
        ends, output = (stages.y_low, stages.y_high), dtypes.output
        y = convert(acc, stages.step, *ends, stages.y_scale, output)[0]
    else:
        y = (acc if stages.gain is None else acc.mul_(stages.gain)).to(dtypes.output)
    return y if stages.spans is None else stages.spans.rescale(y, x)


class Differentiable(torch.autograd.Function):
    """The forward pass with its explicit backward; returns (y, where the ADC saturates).

    ``apply(x, weight, dac, adc, used, array, product, stages, dtypes)``: ``used`` are the weights
    of this pass in array units, ``weight`` the parameter that receives the gradient, and ``dac``
    and ``adc`` the learned ranges that do, or None. Where the ADC's is, the second result is what
    ``learned.rest`` says. Gradients of ranges are not differentiable themselves.
    """

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        dac: Tensor | None,
        adc: Tensor | None,
        used: Tensor,
        array: WeightArray,
        product: Product,
        stages: Stages,
        dtypes: Dtypes,
    ) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        if stages.step is None or stages.y_scale is None:
            return infer(x, used, product, stages, dtypes), None
        acc = _accumulate(x, used, product, stages, dtypes)
        ends, output = (stages.y_low, stages.y_high), dtypes.output
        change = sums_rest(acc, stages, adc)
        wants = change is None
        y, beyond = convert(acc, stages.step, *ends, stages.y_scale, output, wants_beyond=wants)
        y = y if stages.spans is None else stages.spans.rescale(y, x)
        return y, beyond if wants else change

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Keep the operands, which the digital operator would keep too."""
        x, weight, dac, adc, _, ctx.array, ctx.product, ctx.stages, ctx.dtypes = inputs
        excess = output[1]
        if excess is not None:
            ctx.mark_non_differentiable(excess)
        ctx.save_for_backward(x, weight, dac, adc, excess)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight and the ranges."""
        if grad is None:
            return (None,) * 9
        # Once: a checkpoint recomputes them for a single reading.
        saved = ctx.saved_tensors
        if not straight.is_wanted():
            return *_explicit(ctx, saved, grad), None, None, None, None, None
        adc, excess = saved[3:]
        stages: Stages = ctx.stages
        beyond = None if excess is None else saturated(excess, stages, adc)
        made = partial(linearized, array=ctx.array, product=ctx.product, stages=stages)
        found = straight.gradients(
            ctx, saved, grad, partial(made, dtypes=ctx.dtypes, beyond=beyond)
        )
        ranges: tuple[Tensor | None, ...] = (None, None)
        if any(ctx.needs_input_grad[2:4]):
            with torch.no_grad():
                ranges = _explicit(ctx, saved, grad.detach().clone())[2:]
        return *found, *ranges, None, None, None, None, None


def _explicit(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients for x, weight and the ranges, once."""
    x, weight, dac, adc, excess = saved
    stages: Stages = ctx.stages
    dtype, needs = ctx.dtypes.product, ctx.needs_input_grad
    grad_dac = grad_adc = None
    if excess is not None:
        if needs[3]:
            grad_adc = adc_gradient(adc, grad, excess, x, ctx.product, stages)
        grad = stop_saturated(grad, saturated(excess, stages, adc))
    # With weights in their own units, the scales of all stages cancel in x's gradient.
    with memory_for_codes(x, stages, dtype) as out:
        grad_x, grad_w = ctx.product.backward(
            grad.to(dtype),
            inputs_of_gradient(x, stages, dtype, out),
            ctx.array.real(weight).to(dtype),
            (needs[0] or needs[2], needs[1]),
        )
    if needs[2]:
        grad_dac = dac_gradient(dac, grad_x, x, stages)
    return *ended(ctx, saved, grad_x, grad_w), grad_dac, grad_adc


def ended(
    ctx: Any, saved: tuple[Any, ...], grad_x: Tensor | None, grad_w: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and weight, from those of the product; either may be overwritten."""
    x, weight, *_ = saved
    stages: Stages = ctx.stages
    if not ctx.needs_input_grad[0]:
        grad_x = None
    if grad_x is not None:
        grad_x = stop_outside(grad_x.to(x.dtype), x, stages)
    if grad_w is not None:
        grad_w = grad_w.to(weight.dtype)
        if stages.x_scale is not None and stages.spans is None:
            grad_w = grad_w.mul_(stages.x_scale)
        grad_w = ctx.array.mask_gradient(grad_w, weight)
    return grad_x, grad_w


def linearized(
    x: Tensor,
    weight: Tensor,
    *,
    array: WeightArray,
    product: Product,
    stages: Stages,
    dtypes: Dtypes,
    beyond: Tensor | None,
) -> Tensor:
    """What gradients see of the product, in plain operators: straight through, clean weights."""
    operands = straight.operands(x, weight, array, stages, dtypes.product)
    y = product.forward(*operands).to(dtypes.output)
    return y if beyond is None else torch.where(beyond != 0, 0.0, y)


def transformed(
    x: Tensor,
    weight: Tensor,
    used: Tensor,
    array: WeightArray,
    product: Product,
    stages: Stages,
    dtypes: Dtypes,
) -> Tensor:
    """The forward pass in plain operators, which any transform of torch.func can follow."""
    fixed = array, product, stages, dtypes
    y, beyond = Differentiable.forward(x.detach(), weight.detach(), None, None, used, *fixed)
    made = linearized(
        x, weight, array=array, product=product, stages=stages, dtypes=dtypes, beyond=beyond
    )
    return straight.through(y, made)


def _accumulate(
    x: Tensor, weights: Tensor, product: Product, stages: Stages, dtypes: Dtypes
) -> Tensor:
    """DAC and product: accumulated array units."""
    with memory_for_codes(x, stages, dtypes.product) as out:
        codes = input_codes(x, stages, dtypes.product, out)
        weights = weights.to(dtypes.product)
        if stages.signals is not None:
            codes = stages.signals.inputs(codes)
        if dtypes.product == dtypes.output:
            acc = product.forward(codes, weights)
        else:
            with torch.autocast(x.device.type, enabled=False):
                acc = product.forward(codes, weights)
        acc = acc if stages.disturb is None else stages.disturb(acc, codes, weights, product)
    return acc if stages.signals is None else stages.signals.outputs(acc)
