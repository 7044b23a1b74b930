"""Noise that every matrix product draws anew, on what its columns accumulate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analogize.product import Convolution, Product
from analogize.quantize import Bound


@dataclass(frozen=True)
class Disturbance:
    """Read noise and output noise of one operator, in accumulated array units.

    Drawing independent weights for every input vector is never needed: the deviation of a sum of
    independent N(0, sigma_i^2) terms is one draw from N(0, sum of sigma_i^2).

    Attributes:
        additive: standard deviation of each weight, viewed against the output; 0 for none.
        multiplicative: share of each weight that its deviation has; 0 for none.
        output: standard deviation of the accumulated output; 0 for none.
    """

    additive: Bound = 0.0
    multiplicative: float = 0.0
    output: Bound = 0.0

    def __call__(self, acc: Tensor, x: Tensor, weights: Tensor, product: Product) -> Tensor:
        """``acc`` with one draw of the noise added, in place.

        Args:
            acc: product(x, weights).
            x: the array's input.
            weights: the array's weights.
            product: how they are multiplied.
        """
        variance: Bound = self.output**2
        if isinstance(self.additive, Tensor) or self.additive:
            variance = variance + self.additive**2 * squared_norm(x, weights, product)
        if self.multiplicative:
            squares = product.forward(x.square(), weights.square())
            variance = variance + self.multiplicative**2 * squares
        sigma = variance.sqrt() if isinstance(variance, Tensor) else variance**0.5
        return acc.add_(torch.randn_like(acc).mul_(sigma))


def squared_norm(x: Tensor, weights: Tensor, product: Product) -> Tensor:
    """The squared length of the input vector behind every output, broadcastable with the output.

    Shapes: as the product's; the result has one channel where all channels see the same inputs.
    """
    if not isinstance(product, Convolution):
        norm = x.square().sum(-1, keepdim=True)
        return norm if weights.ndim > 1 else norm.squeeze(-1)
    ones = weights.new_ones(_one_channel_a_group(weights.shape, product))
    norm = product.forward(x.square(), ones)
    _, _, columns = product.matrix(weights.shape)
    # The channel axis is the same from the back with and without a batch.
    return norm.repeat_interleave(columns, dim=-product.dimensions - 1)


def _one_channel_a_group(shape: torch.Size, product: Convolution) -> tuple[int, ...]:
    if product.transposed:
        return shape[0], 1, *shape[2:]
    return product.groups, *shape[1:]
