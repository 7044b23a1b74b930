"""What stands for an analog call, and for BatchNorm, while torch exports the rest of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analogize.crossbar.ops import AnalogOp
from analogize.onnx.manifest import DOMAIN
from analogize.product import BatchedLinear, Linear, Product

PLACEHOLDER = "AnalogCall"


class Placeholder(nn.Module):
    """Stands for one call of an analog operator."""

    def __init__(self, op: AnalogOp, region: int, number: int) -> None:
        super().__init__()
        self.product: Product = op.product
        self.weight_shape = tuple(op.array.shape)
        self.region, self.number = region, number
        self.side = op.side

    def forward(self, x: Tensor, output_padding: tuple[int, ...] | None = None) -> Tensor:
        """A node of the placeholder operator, then what digital electronics add to its output."""
        attributes: dict[str, Any] = {"region": self.region, "call": self.number}
        if output_padding is not None:
            attributes["output_padding"] = [int(p) for p in output_padding]
        result: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{PLACEHOLDER}",
            (x,),
            attributes,
            dtype=x.dtype,
            shape=output_shape(self.product, tuple(x.shape), self.weight_shape, output_padding),
            version=1,
        )
        return result if self.side is None else self.side(result, x)


def output_shape(
    product: Product,
    x: tuple[int, ...],
    w: tuple[int, ...],
    output_padding: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """The shape of a product's output; sizes may be symbolic."""
    if isinstance(product, BatchedLinear):
        leading = torch.broadcast_shapes(x[:-2], w[:-2])  # type: ignore[no-untyped-call]
        return (*leading, x[-2], w[-2])
    if isinstance(product, Linear):
        return (*x[:-1], w[0]) if len(w) > 1 else x[:-1]
    n = product.dimensions
    spatial, kernel = x[-n:], w[-n:]
    extra = product.output_padding if output_padding is None else output_padding
    sizes = zip(spatial, kernel, product.stride, product.padding, product.dilation, strict=True)
    if product.transposed:
        channels = w[1] * product.groups
        out = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1 + int(e)
            for (size, k, s, p, d), e in zip(sizes, _spread(extra, n), strict=True)
        ]
    else:
        channels = w[0]
        out = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    return (*x[: -n - 1], channels, *out)


def _spread(values: tuple[int, ...], n: int) -> tuple[int, ...]:
    return tuple(values) * n if len(values) == 1 else tuple(values)


def is_stock_batchnorm(owner: nn.Module | None) -> bool:
    """Whether ``owner`` is torch's own BatchNorm with running statistics."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return type(owner) in kinds and getattr(owner, "running_var", None) is not None


class ScaleShift(nn.Module):
    """BatchNorm in eval mode, ``alpha x + beta`` with constants per channel.

    Torch's CPU kernels fuse multiplication and addition (one rounding); float32 ``Mul`` and ``Add``
    round twice, and the last bit differs in a third of the values. In float64 both factors' product
    is exact, so that rounding the sum to float32 gives torch's bits.
    """

    def __init__(self, norm: Any, exact: bool) -> None:
        super().__init__()
        variance = norm.running_var.detach().cpu().numpy()
        inverse = np.float32(1) / np.sqrt(variance + np.float32(norm.eps))
        mean = norm.running_mean.detach().cpu().numpy()
        weight = np.float32(1) if norm.weight is None else norm.weight.detach().cpu().numpy()
        bias = np.float32(0) if norm.bias is None else norm.bias.detach().cpu().numpy()
        alpha = inverse * weight
        # float64 holds the exact product of two float32 numbers: a fused multiply-add, as torch's.
        beta = (bias - mean.astype(np.float64) * alpha.astype(np.float64)).astype(np.float32)
        dtype = torch.float64 if exact else torch.float32
        device = norm.running_var.device
        self.register_buffer("alpha", torch.from_numpy(alpha).to(device, dtype))
        self.register_buffer("beta", torch.from_numpy(beta).to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, *spatial), unchanged."""
        return scale_shift(x, self.get_buffer("alpha"), self.get_buffer("beta"))


def scale_shift(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha x + beta`` per channel in the constants' dtype, rounded to that of ``x``."""
    shape = (-1, *[1] * (x.ndim - 2))
    return (x.to(alpha.dtype) * alpha.view(shape) + beta.view(shape)).to(x.dtype)
