"""Noise that every matrix product draws anew, on what its columns accumulate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogize.devices.conductance import to_cells
from analogize.devices.curves import evaluate
from analogize.devices.random import Draws
from analogize.product import Convolution, Product
from analogize.quantize import Bound
from analogize.targets.conductance import Conductance
from analogize.targets.curve import Curve
from analogize.targets.noise import NoiseModel, OutputNoise, ReadNoise


@dataclass(frozen=True)
class CellNoise:
    """Read noise of single devices: the variance of each weight, in squared array units.

    Devices are taken to have the conductances that the chip's weight is encoded by. That of a
    reference column is drawn for each column by itself.

    Attributes:
        sigmas: standard deviations over the conductance, each with a factor; independent, so
            variances add up.
        conductance: the mapping.
        full: the weight that takes the whole conductance range, in array units.
    """

    sigmas: tuple[tuple[Curve, float], ...]
    conductance: Conductance
    full: Bound

    def variance(self, weights: Tensor) -> Tensor:
        """Shapes: as ``weights``, which are a chip's, in array units."""
        mapping = self.conductance
        unit = self.full / (mapping.g_max - mapping.g_min)
        if mapping.encoding == "offset" or mapping.significance is not None:
            return self._of_cells(weights, unit)
        held = weights.abs() / unit + mapping.g_min
        off = held.new_full((), mapping.g_min)
        total = weights.new_zeros(())
        for sigma, scale in self.sigmas:
            both = evaluate(sigma, held).square() + evaluate(sigma, off).square()
            total = total + both * scale**2
        return total * (unit**2 / mapping.pairs)

    def _of_cells(self, weights: Tensor, unit: Bound) -> Tensor:
        mapping = self.conductance
        cells = to_cells(weights, self.full, mapping).clamp_(min=0)
        found = weights.new_zeros(())
        for sigma, scale in self.sigmas:
            found = found + evaluate(sigma, cells).square() * scale**2
        if mapping.significance is None:
            return found.sum((0, 1)) * ((2 * unit) ** 2 / mapping.pairs)
        shares = found.new_tensor(mapping.significance) / sum(mapping.significance)
        weighted = found * shares.square().view(-1, *[1] * weights.ndim)
        return weighted.sum((0, 1)) * unit**2


@dataclass(frozen=True)
class Disturbance:
    """Read noise and output noise of one operator, in accumulated array units.

    Drawing independent weights for every input vector is never needed: the deviation of a sum of
    independent N(0, sigma_i^2) terms is one draw from N(0, sum of sigma_i^2).

    Attributes:
        additive: standard deviation of each weight, viewed against the output; 0 for none.
        multiplicative: share of each weight that its deviation has; 0 for none.
        output: standard deviation of the accumulated output; 0 for none.
        cells: read noise of single devices, or None.
    """

    additive: Bound = 0.0
    multiplicative: float = 0.0
    output: Bound = 0.0
    cells: CellNoise | None = None

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
        if self.multiplicative or self.cells is not None:
            of_weights = self.multiplicative**2 * weights.square()
            if self.cells is not None:
                of_weights = of_weights + self.cells.variance(weights)
            variance = variance + product.forward(x.square(), of_weights)
        sigma = variance.sqrt() if isinstance(variance, Tensor) else variance**0.5
        return acc.add_(torch.randn_like(acc).mul_(sigma))


def disturbance(
    noise: Sequence[NoiseModel],
    width: Bound,
    adc_range: Bound,
    conductance: Conductance | None,
    full: Bound,
) -> Disturbance | None:
    """What ``noise`` makes of every product; None where nothing is drawn at products.

    Args:
        noise: a target's noise models; those that do not act on products are passed over.
        width: W_max - W_min in array units, viewed against the output.
        adc_range: Y_max - Y_min in accumulated array units.
        conductance: the mapping, or None.
        full: the weight that takes the whole conductance range, in array units.
    """
    reads = [m for m in noise if isinstance(m, ReadNoise)]
    outputs = [m for m in noise if isinstance(m, OutputNoise)]
    # The mean of n independent readings deviates by a share 1 / sqrt(n) of what one does.
    shares = [m.scale / math.sqrt(m.reads) for m in reads]
    additive = math.hypot(*(m.additive * s for m, s in zip(reads, shares, strict=True)))
    multiplicative = math.hypot(*(m.multiplicative * s for m, s in zip(reads, shares, strict=True)))
    output = math.hypot(*(m.std / math.sqrt(m.reads) for m in outputs))
    sigmas = tuple(
        (m.sigma, s) for m, s in zip(reads, shares, strict=True) if m.sigma is not None and s
    )
    cells = CellNoise(sigmas, conductance, full) if sigmas and conductance is not None else None
    if not additive + multiplicative + output and cells is None:
        return None
    return Disturbance(
        additive=additive * width if additive else 0.0,
        multiplicative=multiplicative,
        output=output * adc_range if output else 0.0,
        cells=cells,
    )


def read_once(
    noise: Sequence[NoiseModel],
    weights: Tensor,
    width: Bound,
    conductance: Conductance | None,
    full: Bound,
    draws: Draws,
    name: str,
) -> Tensor:
    """Weights with one draw of their read noise, as a unit input to every row by itself finds them.

    Args:
        noise: a target's noise models; those that are no read noise are passed over.
        weights: a chip's, in array units.
        width: W_max - W_min in array units, viewed against the weights.
        conductance: the mapping, or None.
        full: the weight that takes the whole conductance range, in array units.
        draws: of the chip.
        name: of the draw.
    """
    reads = [m for m in noise if isinstance(m, ReadNoise)]
    found = disturbance(reads, width, 0.0, conductance, full)
    if found is None:
        return weights
    variance = found.multiplicative**2 * weights.square() + found.additive**2
    if found.cells is not None:
        variance = variance + found.cells.variance(weights)
    return weights + draws.normal(name, weights) * variance.sqrt()


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
