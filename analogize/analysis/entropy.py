"""Entropies of counts, and the mutual information of binned outputs with its standard errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma

from analogize.evaluation.estimate import Estimate, jackknife_error

Array = NDArray[Any]
Weights = Callable[[int], Array]


def plug_in(largest: int) -> Array:
    """Maximum-likelihood entropy, equation 7: c log c for the counts c = 0 to ``largest``.

    An entropy of N draws is log N - 1/N sum_cells g(c); ``grassberger`` has another g.
    """
    counts = np.arange(largest + 1, dtype=np.float64)
    return counts * np.log(np.maximum(counts, 1))


def grassberger(largest: int) -> Array:
    """Grassberger's entropy: c G(c), G(c) = psi(c) + (-1)^c / 2 (psi((c + 1) / 2) - psi(c / 2)).

    Its bias falls exponentially with the mean count of a cell, where the plug-in
    entropy's falls as 1/N (Grassberger, "Entropy estimates from insufficient samplings",
    arXiv:physics/0307138, 2003, equations 27 to 35).
    """
    c = np.arange(1, largest + 1, dtype=np.float64)
    sign = np.where(c % 2 == 0, 0.5, -0.5)
    g = digamma(c) + sign * (digamma((c + 1) / 2) - digamma(c / 2))
    return np.concatenate([[0.0], c * g])


def entropy(counts: Array, weights: Weights) -> float:
    """Entropy in nats of the distribution that ``counts`` (any shape) were drawn from."""
    total = int(counts.sum())
    return float(np.log(total) - weights(int(counts.max()))[counts].sum() / total)


def binned_information(cells: Array, weights: Weights) -> Estimate:
    """I(X;Y) = H(Y) - H(Y|X) in nats, from the cell of every output.

    Args:
        cells: numbers from 0, shape (chips, inputs): Y of each chip for each input X.
        weights: ``plug_in`` or ``grassberger``.

    Returns:
        The estimate with jackknife standard errors over chips and over inputs.
    """
    chips, inputs = cells.shape
    g = weights(cells.size)
    pooled = np.bincount(cells.ravel())
    total = g[pooled].sum()
    # Sum of g over the cells of each input, and of each input's count at every output.
    own = np.array([g[np.bincount(column)].sum() for column in cells.T])
    count = np.stack([np.bincount(column)[column] for column in cells.T], axis=1)

    def information(pooled_sum: float, draws: int, own_sum: float, inputs: int, n: int) -> float:
        conditional = np.log(n) - own_sum / (n * inputs)
        return float(np.log(draws) - pooled_sum / draws - conditional)

    def without(some: Array) -> float:
        found, times = np.unique(some, return_counts=True)
        return float(total + (g[pooled[found] - times] - g[pooled[found]]).sum())

    value = information(total, cells.size, own.sum(), inputs, chips)
    size = (chips - 1) * inputs
    left_chip = [
        information(
            without(cells[i]),
            size,
            own.sum() + (g[count[i] - 1] - g[count[i]]).sum(),
            inputs,
            chips - 1,
        )
        for i in range(chips if chips > 1 else 0)
    ]
    left_input = [
        information(
            without(cells[:, j]),
            chips * (inputs - 1),
            own.sum() - own[j],
            inputs - 1,
            chips,
        )
        for j in range(inputs if inputs > 1 else 0)
    ]
    return Estimate(
        value=value,
        chips=jackknife_error(torch.tensor(left_chip, dtype=torch.float64)),
        samples=jackknife_error(torch.tensor(left_input, dtype=torch.float64)),
    )
