"""A small network, its chips, and batches that count how often they were gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analogize import Target, analogize

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        scores: Tensor = self.fc(self.drop(x.flatten(1)))
        return scores


class Dreaming(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, training=True))


class Counted:
    """Batches that count how often they were gone through, and may interrupt."""

    def __init__(self, batches: Batches, interrupt_at: int | None = None) -> None:
        self.batches, self.given, self.interrupt_at = batches, 0, interrupt_at

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            self.given += 1
            if self.given == self.interrupt_at:
                raise KeyboardInterrupt
            yield batch

    @property
    def passes(self) -> float:
        return self.given / len(self.batches)


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(n, 1, 6, 6), torch.randint(0, 5, (n,))) for n in (20, 20, 7)]


@pytest.fixture
def analog(quantized: MakeTarget, batches: Batches) -> nn.Module:
    return analogize(Net(), quantized(bits=6, eta=0.1), batches)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


@pytest.fixture
def linear(make_target: MakeTarget) -> tuple[nn.Module, Batches]:
    """One linear layer without bias or quantization, and its own clean outputs as targets."""
    model = nn.Sequential(nn.Linear(8, 3, bias=False))
    noise = [{"model": "gaussian", "eta": 0.05}]
    target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
    inputs = torch.randn(16, 8)
    with torch.no_grad():
        batches = [(inputs, model(inputs))]
    return analogize(model, target), batches


@pytest.fixture
def net() -> type[Net]:
    """The network's class, with BatchNorm and dropout."""
    return Net


@pytest.fixture
def dreaming() -> type[Dreaming]:
    """One that draws random numbers in eval mode too."""
    return Dreaming


@pytest.fixture
def counted() -> type[Counted]:
    """Batches that count, and may interrupt."""
    return Counted


@pytest.fixture
def squared() -> Callable[[Tensor, Tensor], Tensor]:
    """The squared error, as a metric."""
    return squared_error
