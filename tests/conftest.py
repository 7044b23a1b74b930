"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from hypothesis import settings
from torch import Tensor

from analogize import Target
from analogize.targets import load_target

# The first example of a test pays for imports and thread pools, so no example has a deadline; a
# continuous-integration run explores the same examples every time.
settings.register_profile("analogize", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("analogize")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _compiled_anew() -> None:
    # Code that models share is compiled for eight of them, then no more: tests are many programs.
    torch._dynamo.reset()


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """A target from ``ideal`` with the given parts replaced, as a YAML file would give them."""

    def make(**parts: Any) -> Target:
        fields = load_target("ideal").model_dump(by_alias=True)
        return Target.model_validate(fields | {"name": "test"} | parts)

    return make


@pytest.fixture
def quantized(make_target: Callable[..., Target]) -> Callable[..., Target]:
    """A target with every stage quantized, and Gaussian noise of level ``eta``."""

    def make(
        bits: int = 8, eta: float = 0.0, granularity: str = "tensor", grid: str = "affine"
    ) -> Target:
        converter = {"bits": bits, "range": {"kind": "percentile", "low": 0.0, "high": 100.0}}
        noise = [{"model": "gaussian", "eta": eta}] if eta else []
        return make_target(
            weights={
                "bits": bits,
                "range": {"kind": "absmax"},
                "granularity": granularity,
                "grid": grid,
            },
            dac=converter,
            adc=converter,
            noise=noise,
        )

    return make


@pytest.fixture
def images() -> Tensor:
    """A small batch of random images, shape (4, 3, 8, 8)."""
    return torch.randn(4, 3, 8, 8)
