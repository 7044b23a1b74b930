"""Small models whose weights are shared, computed or written by hand: the same once rewritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

CheckOriginal = Callable[..., None]
W = 6


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(W, W), nn.Linear(W, W)
        self.kept: list[Any] = []

    def does(self) -> list[Any]:
        return self.kept


class Detached(Model):
    """A target network: weights of which nobody wants gradients, and a momentum update."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.a).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.a.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
        return self.b(self.a(x)) - self.slow(x).detach()  # type: ignore[no-any-return]


class Sizes(Model):
    """Products whose sizes come from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.table = nn.Parameter(torch.randn(W, W)), nn.Parameter(torch.randn(W, W))

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        weights = self.mix.unsqueeze(0).expand(batch, -1, -1)
        y = torch.bmm(self.a(x).unsqueeze(1), weights).squeeze(1)
        return self.b(y) + torch.einsum("bi,oi->bo", x, self.table.view(W, -1))


class Buffers(Model):
    """Weights of integers with scales, as weight-only quantization has them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randint(-8, 8, (W, W), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(W, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) @ (self.codes.float() * self.scale).t())  # type: ignore[no-any-return]


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


class Parametrized(Model):
    def __init__(self) -> None:
        super().__init__()
        parametrize.register_parametrization(self.a, "weight", Symmetric())
        parametrizations.weight_norm(self.b)

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return self.b(self.a(self.a(x)))  # type: ignore[no-any-return]


class Tied(Model):
    """Autoencoder with one weight both ways, and a tied layer."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(W, W)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.c(self.b(self.a(x))), self.a.weight.t())


class Constrained(Model):
    """A constraint on weights, written in forward."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.a.weight.data = F.normalize(self.a.weight.data, dim=1)
            with torch.no_grad():
                self.b.weight.div_(self.b.weight.norm().clamp(min=1))
        return self.b(self.a(x))  # type: ignore[no-any-return]


class Hyper(Model):
    """Weights that other layers compute, beside stored ones."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.a(x).mean(0).outer(torch.ones(W))
        return F.linear(self.b(x), made)


class Low(Model):
    """A low-rank update of a frozen weight, merged where nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.a.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, W)), nn.Parameter(torch.randn(W, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.b(self.a(x) + (x @ self.down.t()) @ self.up.t())  # type: ignore[no-any-return]
        return self.b(F.linear(x, self.a.weight + self.up @ self.down, self.a.bias))  # type: ignore[no-any-return]


class Convolved(Model):
    """A kernel of the user's own, normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel / self.kernel.abs().sum()
        y = F.conv1d(self.a(x).unsqueeze(1), kernel, padding=1)
        return self.b(y.squeeze(1))  # type: ignore[no-any-return]


CASES: list[type[Model]] = sorted(Model.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_it_does_what_the_original_does(
    kind: type[Model], example: bool, check_original: CheckOriginal
) -> None:
    if not example and kind in (Tied, Low):
        pytest.skip("its layers' weights are read directly, which is refused without an example")
    check_original(kind, example)
