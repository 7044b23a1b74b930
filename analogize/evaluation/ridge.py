"""Ridge regression in closed form, its penalty by generalised cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor

# Penalties tried, as shares of the largest squared singular value.
_PENALTIES = torch.logspace(-8, 2, 41, dtype=torch.float64)


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and intercepts that predict ``y`` from ``x``, shrunk towards zero weights.

    The penalty is the one that generalised cross-validation rates best (Golub, Heath and Wahba,
    1979); no weights at all are among the candidates. The intercepts are not penalised.

    Args:
        x: (samples, inputs), float64.
        y: (samples, outputs), float64.

    Returns:
        Weights (outputs, inputs) and intercepts (outputs).
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y, count = x - x_mean, y - y_mean, len(x)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    inside = left.mT @ y
    outside = y.square().sum() - inside.square().sum()
    powers = values.square()
    best, kept = y.square().sum() / max(1e-12, (1 - 1 / count) ** 2), torch.zeros_like(values)
    for penalty in _PENALTIES.to(x.device) * powers.max():
        share = powers / (powers + penalty)
        rest = outside + ((1 - share).unsqueeze(1) * inside).square().sum()
        free = 1 - (1 + share.sum()) / count
        score = rest / free**2
        if free > 0 and score < best:
            best, kept = score, share
    inverse = torch.where(kept > 0, kept / values.clamp_min(1e-300), 0)
    weights = (right.mT @ (inverse.unsqueeze(1) * inside)).mT
    return weights, y_mean - weights @ x_mean
