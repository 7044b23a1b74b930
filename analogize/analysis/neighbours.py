"""Mutual information between a discrete and a continuous variable, from nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.special import digamma

Array = NDArray[Any]


def local_information(y: Array, neighbours: int = 3) -> Array:
    """Each output's contribution to I(X;Y) in nats; their mean is the estimate.

    psi(N) - psi(n) + psi(k) - psi(m): n of the N outputs share this one's input, the k-th nearest
    of them is at distance r, and m others of all N lie within r. Source: Ross, "Mutual information
    between discrete and continuous data sets", PLoS ONE 9(2), e87357, 2014, with the maximum norm.
    Saturated outputs coincide, or lie at equal distances; k therefore counts every output of the
    same input within r, as m does (after Gao et al., "Estimating mutual information for
    discrete-continuous mixtures", NeurIPS 2017). Without noise the estimate is log(inputs), but for
    1 / (2 n), unless inputs share an output.

    Args:
        y: outputs, shape (chips, inputs, values).
        neighbours: k, below the number of chips.

    Returns:
        float64, shape (chips, inputs).
    """
    chips, inputs, values = y.shape
    radius, same = np.empty((chips, inputs)), np.empty((chips, inputs))
    for j in range(inputs):
        distances = _distances(y[:, j])
        kth = np.partition(distances, neighbours, axis=1)[:, neighbours]
        # The tree computes its distances in another order, so both counts take a hair more.
        radius[:, j] = kth * (1 + 1e-12)
        same[:, j] = (distances <= radius[:, j, None]).sum(1) - 1
    points = y.reshape(-1, values)
    tree = KDTree(points)
    near = tree.query_ball_point(points, radius.ravel(), p=np.inf, return_length=True) - 1
    terms = digamma(chips * inputs) - digamma(chips) + digamma(same.ravel()) - digamma(near)
    found: Array = terms.reshape(chips, inputs)
    return found


def _distances(points: Array) -> Array:
    """Maximum-norm distances (n, n) within ``points`` (n, values)."""
    distances = np.zeros((len(points), len(points)))
    for column in points.T:
        np.maximum(distances, np.abs(column[:, None] - column[None]), out=distances)
    return distances
