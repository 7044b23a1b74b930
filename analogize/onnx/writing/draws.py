"""Noise that the graph draws at every run: of weights, and of products.

Weights (crossbar/noise.py): ``w + sigma N(0, 1)``. Products (devices/reading.py):
``acc + sqrt(product(x^2, v) + output^2) N(0, 1)`` with v the variance of each weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from analogize.devices.reading import Disturbance
from analogize.onnx.writing.body import Array, Body, array
from analogize.onnx.writing.plan import RegionPlan
from analogize.onnx.writing.stages import multiply
from analogize.product import Product

_FLOAT = int(ir.DataType.FLOAT)


def noisy_weights(body: Body, plan: RegionPlan, weight: ir.Value, digit: int = 0) -> ir.Value:
    """Weights in array units, or one digit of them, with one draw of every model added."""
    total = weight
    deviations = plan.noise.weights[digit] if plan.noise.weights else ()
    for number, (sigma, model) in enumerate(deviations):
        end = f"{digit or ''}{f'_{number}' if number else ''}"
        drawn = body.add("noise", f"draw{end}", "RandomNormalLike", [weight], {"dtype": _FLOAT})
        factor = body.constant(f"noise/sigma{end}", sigma)
        drawn = body.add("noise", f"scale{end}", "Mul", [drawn, factor])
        if eta_std := getattr(model, "eta_std", 0.0):
            mean = float(getattr(model, "eta", 0.0))
            attributes = {"shape": [1], "mean": mean, "scale": float(eta_std)}
            level = body.add("noise", f"level{end}", "RandomNormal", [], attributes)
            drawn = body.add("noise", f"at_level{end}", "Mul", [drawn, level])
        total = body.add("noise", f"add{end}", "Add", [total, drawn])
    return total


def noisy_product(
    body: Body,
    plan: RegionPlan,
    acc: ir.Value,
    x: ir.Value,
    weight: ir.Value,
    shape: torch.Size,
    output_padding: tuple[int, ...] | None,
    end: str = "",
    number: int = 0,
) -> ir.Value:
    """``acc`` with one draw of read and output noise added.

    Args:
        body: receives the nodes.
        plan: the region.
        acc: what was accumulated: the product of ``x`` and ``weight``.
        x: the array's input.
        weight: the array's weights.
        shape: their shape, as torch has it.
        output_padding: of this call, if it is not the product's own.
        end: parts the nodes' names.
        number: which of the plan's variances belongs to these weights.
    """
    noise = plan.noise.products
    if noise is None:
        return acc
    variance = _variance_of_weights(body, plan, noise, weight, shape, end, number)
    if variance is not None:
        squares = body.add("noise", f"{end}x_squared", "Mul", [x, x])
        where = "noise", f"{end}variance"
        variance = multiply(body, plan, squares, variance, output_padding, where)
    if _is_set(noise.output):
        fixed = body.constant("noise/output", _square(noise.output))
        if variance is None:
            variance = fixed
        else:
            variance = body.add("noise", f"{end}all", "Add", [variance, fixed])
    assert variance is not None, "a disturbance has at least one part"
    sigma = body.add("noise", f"{end}sigma", "Sqrt", [variance])
    drawn = body.add("noise", f"{end}draw_sum", "RandomNormalLike", [acc], {"dtype": _FLOAT})
    drawn = body.add("noise", f"{end}scale_sum", "Mul", [drawn, sigma])
    return body.add("noise", f"{end}add_sum", "Add", [acc, drawn])


def _variance_of_weights(
    body: Body,
    plan: RegionPlan,
    noise: Disturbance,
    weight: ir.Value,
    shape: torch.Size,
    end: str,
    number: int,
) -> ir.Value | None:
    total: ir.Value | None = None
    if noise.multiplicative:
        squares = body.add("noise", f"{end}w_squared", "Mul", [weight, weight])
        share = body.number("noise/multiplicative", noise.multiplicative**2)
        total = body.add("noise", f"{end}multiplicative", "Mul", [squares, share])
    if plan.noise.variances:
        cells = body.constant(f"noise/cells{number}", plan.noise.variances[number])
        total = cells if total is None else body.add("noise", f"{end}cells", "Add", [total, cells])
    if not _is_set(noise.additive):
        return total
    if total is None:
        size = body.add("noise", f"{end}shape", "Shape", [weight])
        zero = ir.tensor(np.zeros(1, np.float32))
        total = body.add("noise", f"{end}zeros", "ConstantOfShape", [size], {"value": zero})
    additive = _against_weights(plan.op.product, noise.additive, shape, plan.stored.transposed)
    fixed = body.constant("noise/additive", additive)
    return body.add("noise", f"{end}additive", "Add", [total, fixed])


def _is_set(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) or bool(value)


def _square(value: float | Tensor) -> Array:
    return array(torch.as_tensor(value).square().float())


def _against_weights(
    product: Product, value: float | Tensor, shape: torch.Size, transposed: bool
) -> Array:
    """A variance viewed against the output, viewed against the stored weights instead."""
    if not isinstance(value, Tensor) or not value.ndim:
        return _square(value)
    viewed = product.channels(value.flatten(), shape)
    return _square(viewed.mT if transposed and viewed.ndim > 1 else viewed)
