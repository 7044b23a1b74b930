"""The device under test, and models that live on it and on the CPU."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import Target, analogize

Batches = list[tuple[Tensor, Tensor]]
Pair = tuple[nn.Module, nn.Module]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """CUDA, or what ``ANALOGIZE_TEST_DEVICE`` names: ``cpu`` tries the tests themselves."""
    found = torch.device(os.environ.get("ANALOGIZE_TEST_DEVICE", "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    # Products of float32 numbers, as on the CPU, and not of their first 11 bits.
    torch.backends.cudnn.allow_tf32 = False
    # With an index, as the devices of tensors have one.
    return torch.empty(0, device=found).device


@pytest.fixture
def pair(device: torch.device) -> Callable[..., Pair]:
    """A model rewritten on the CPU, and its copy on the device, both in eval mode."""

    def make(model: nn.Module, target: str | Target, data: Any = None, **named: Any) -> Pair:
        here = analogize(model, target, data, **named).eval()
        return here, copy.deepcopy(here).to(device)

    return make


@pytest.fixture
def network() -> nn.Module:
    """A convolution, BatchNorm with statistics of its own, and a linear layer; float64."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 25, 4),
    ).double()
    model(torch.randn(64, 2, 5, 5, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def batches(network: nn.Module) -> Batches:
    """Images on the CPU, labelled by the network itself: without noise it makes no mistake."""
    x = torch.randn(3, 16, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        return [(images, network(images).argmax(1)) for images in x]


@pytest.fixture
def there(device: torch.device) -> Callable[[Batches], Batches]:
    """The same batches on the device."""
    return lambda batches: [(x.to(device), y.to(device)) for x, y in batches]
