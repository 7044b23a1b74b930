from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from analogize import distillation_loss
from analogize.errors import TrainingError


def softmax(z: np.ndarray, t: float) -> np.ndarray:
    e = np.exp(z / t - (z / t).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_hand(
    zs: np.ndarray, zt: np.ndarray, y: np.ndarray, alpha: float, t: float
) -> tuple[float, np.ndarray]:
    """Equation 10 and its derivative with respect to the student's logits."""
    n, classes = zs.shape
    onehot = np.eye(classes)[y]
    q = softmax(zt, t)
    hard = -(onehot * np.log(softmax(zs, 1))).sum(1)
    soft = -(q * np.log(softmax(zs, t))).sum(1)
    # d H(softmax(z / T), q) / dz = (softmax(z / T) - q) / T
    grad = (softmax(zs, 1) - onehot) + alpha * t**2 * (softmax(zs, t) - q) / t
    return float((hard + alpha * t**2 * soft).mean()), grad / n


def logits(seed: int, n: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    zs = 3 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    zt = 3 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return zs.requires_grad_(), zt, torch.randint(classes, (n,), generator=g)


@given(
    st.integers(0, 1000), st.sampled_from([0.0, 0.3, 1.0, 5.0]), st.sampled_from([0.5, 1.0, 6.0])
)
def test_it_is_equation_10_gradients_included(seed: int, alpha: float, t: float) -> None:
    zs, zt, y = logits(seed)
    loss = distillation_loss(zs, zt, y, alpha, t)
    loss.backward()
    value, grad = by_hand(zs.detach().numpy(), zt.numpy(), y.numpy(), alpha, t)
    # Double precision over sums of 20 terms of order alpha T^2 * 10: 1e-12 leaves a margin of 10.
    assert float(loss.detach()) == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert zs.grad is not None
    np.testing.assert_allclose(zs.grad.numpy(), grad, rtol=1e-10, atol=1e-13)


def test_alpha_0_is_cross_entropy_and_needs_no_teacher() -> None:
    zs, _, y = logits(0)
    assert torch.equal(distillation_loss(zs, None, y, alpha=0), F.cross_entropy(zs, y))


def test_the_paper_uses_alpha_1_and_temperature_6() -> None:
    zs, zt, y = logits(1)
    assert torch.equal(distillation_loss(zs, zt, y), distillation_loss(zs, zt, y, 1.0, 6.0))


def test_no_gradient_flows_to_the_teacher() -> None:
    zs, zt, y = logits(2)
    zt.requires_grad_()
    distillation_loss(zs, zt, y).backward()
    assert zt.grad is None


def test_positions_average_like_samples() -> None:
    zs, zt, y = logits(3, n=6)
    flat = distillation_loss(zs, zt, y)

    def per_pixel(z: Tensor) -> Tensor:
        return z.view(2, 3, 4).movedim(-1, 1)

    spread = distillation_loss(per_pixel(zs), per_pixel(zt), y.view(2, 3))
    assert float(spread.detach()) == pytest.approx(float(flat.detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher_logits": torch.zeros(5, 3)}, ["(5, 4)", "(5, 3)", "same classes"]),
        ({"teacher_logits": None}, ["alpha = 1", "pass a teacher"]),
        ({"labels": torch.tensor([0, 1, 2, 3, 4])}, ["0 to 4", "4 classes", "0 to 3"]),
        ({"labels": torch.tensor([0, -1, 2, 3, 1])}, ["-1 to 3"]),
        ({"labels": torch.zeros(5)}, ["float32", "int64"]),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ["(3,)", "(5,)"]),
        ({"student_logits": torch.zeros(5)}, ["(5,)", "not classifiers"]),
        ({"alpha": -1.0}, ["alpha is -1.0"]),
        ({"alpha": float("nan")}, ["alpha is nan"]),
        ({"temperature": 0.0}, ["temperature is 0.0"]),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], words: list[str]) -> None:
    zs, zt, y = logits(0)
    arguments = {"student_logits": zs, "teacher_logits": zt, "labels": y} | change
    with pytest.raises(TrainingError) as raised:
        distillation_loss(**arguments)  # type: ignore[arg-type]
    assert all(word in str(raised.value) for word in words)
