"""A call of torch's linear and convolution functions as a product, its input and its bias."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from analogize.passes.signature import PRODUCTS, expand
from analogize.product import BatchedLinear, Convolution, Linear, Product


def normalized(func: Any, arguments: dict[str, Any]) -> tuple[Tensor, Product]:
    """A product's input, padded where its padding is no number, and its attributes."""
    x, weight = arguments["input"], arguments["weight"]
    signature = PRODUCTS[func]
    if signature.dimensions == 0:
        batched = signature.operator == "batched_linear"
        return x, BatchedLinear(tuple(weight.shape[:-2])) if batched else Linear()
    n = signature.dimensions
    dilation, padding = expand(arguments["dilation"], n), arguments["padding"]
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            x = F.pad(x, [side for t in reversed(total) for side in (t // 2, t - t // 2)])
            padding = 0
        else:
            padding = tuple(t // 2 for t in total)
    return x, Convolution(
        signature.operator,
        stride=expand(arguments["stride"], n),
        padding=expand(padding, n),
        dilation=dilation,
        transposed=signature.transposed,
        output_padding=expand(arguments.get("output_padding", 0), n),
        groups=arguments["groups"],
    )


def add_bias(y: Tensor, bias: Tensor | None, dimensions: int) -> Tensor:
    """The digital addition after the array; keeps the product's dtype."""
    if bias is None:
        return y
    column = bias.type_as(y)
    return y + (column.view(-1, *[1] * dimensions) if dimensions else column)
