"""A target, a small teacher and its student, for training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from analogize import AnalogModule, Target, analogize


@pytest.fixture
def target(make_target: Callable[..., Target]) -> Target:
    """Weights clipped at two deviations, and Gaussian noise."""
    return make_target(
        weights={"range": {"kind": "std", "multiple": 2}},
        noise=[{"model": "gaussian", "eta": 0.1}],
    )


@pytest.fixture
def teacher() -> nn.Sequential:
    """Two layers, six features and three classes."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def student(teacher: nn.Module, target: Target) -> AnalogModule:
    """The teacher, rewritten for the target."""
    return analogize(teacher, target)
