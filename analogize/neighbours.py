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
    of them is at distance r, and m of all N lie within r. Source: Ross, "Mutual information between
    discrete and continuous data sets", PLoS ONE 9(2), e87357, 2014, with the maximum norm. Where at
    least k outputs of the same input coincide, k and m count the coincident ones (Gao et al.,
    "Estimating mutual information for discrete-continuous mixtures", NeurIPS 2017), so that a
    noiseless network has log(inputs), but for 1 / (2 n), unless it maps inputs to one output.

    Args:
        y: outputs, shape (chips, inputs, values).
        neighbours: k, below the number of chips.

    Returns:
        float64, shape (chips, inputs).
    """
    chips, inputs, values = y.shape
    radius, same = np.empty((chips, inputs)), np.full((chips, inputs), float(neighbours))
    for j in range(inputs):
        distances = _distances(y[:, j])
        radius[:, j] = np.partition(distances, neighbours, axis=1)[:, neighbours]
        tied = radius[:, j] == 0
        same[tied, j] = (distances[tied] == 0).sum(1)
    # Strictly within r, this output itself taking the k-th one's place; coincident ones at r = 0.
    inside = np.where(radius > 0, np.nextafter(radius, 0), 0).ravel()
    points = y.reshape(-1, values)
    near = KDTree(points).query_ball_point(points, inside, p=np.inf, return_length=True)
    terms = digamma(chips * inputs) - digamma(chips) + digamma(same.ravel()) - digamma(near)
    found: Array = terms.reshape(chips, inputs)
    return found


def _distances(points: Array) -> Array:
    """Maximum-norm distances (n, n) within ``points`` (n, values)."""
    distances = np.zeros((len(points), len(points)))
    for column in points.T:
        np.maximum(distances, np.abs(column[:, None] - column[None]), out=distances)
    return distances
