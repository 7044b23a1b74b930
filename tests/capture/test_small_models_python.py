"""Small models whose Python keeps state, branches or opens contexts: the same once rewritten."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CheckOriginal = Callable[..., None]
W = 6


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(W, W), nn.Linear(W, W)
        self.kept: list[Any] = []

    def does(self) -> list[Any]:
        return self.kept


class Scaled(Model):
    """An attribute, a class attribute, a property and a nested configuration."""

    gain = 1.5

    def __init__(self) -> None:
        super().__init__()
        self.config = {"inner": {"alpha": 0.5}}

    @property
    def half(self) -> float:
        return self.gain / 2

    def forward(self, x: Tensor) -> Tensor:
        self.gain += 0.25
        self.config["inner"]["alpha"] *= 2
        return self.b(self.a(x) * self.half) * self.config["inner"]["alpha"]  # type: ignore[no-any-return]


class Islands(Model):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = self.a(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.b(x)
        return frozen + y.float() + (self.b(x) if torch.is_grad_enabled() else 2 * self.b(x))  # type: ignore[no-any-return]


class Counts(Model):
    def __init__(self) -> None:
        super().__init__()
        self.seen: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen["sizes"].append(len(x))
        self.kept.append(round(float(x.detach().sum()), 3))
        return self.b(self.a(x)) * self.calls  # type: ignore[no-any-return]


class Generators(Model):
    def __init__(self) -> None:
        super().__init__()
        self.python, self.numpy = random.Random(1), np.random.default_rng(2)
        self.torch = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        drop = torch.rand(W, generator=self.torch)
        x = self.a(x) * drop + self.numpy.normal()
        return self.b(x) if self.python.random() < 0.5 else self.b(x).relu()


class Hooks(Model):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        self.a.register_forward_hook(lambda m, args, out: out + 1)
        self.b.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
        self.register_forward_hook(lambda m, args, out: self.kept.append(tuple(out.shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


class Checkpointed(Model):
    def part(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.part, x, use_reentrant=False)  # type: ignore[no-any-return]


class Routed(Model):
    """Experts that the input chooses, and early exits."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(W, W) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.a(x)[:, :3].softmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = scores.argmax(-1) == index
            if rows.any():
                out[rows] = expert(x[rows]) * scores[rows, index, None]
        return out if float(out.detach().abs().max()) > 1e3 else self.b(out)


class Outside(Model):
    """Functions, partials, closures and cached values instead of methods."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[Tensor], Tensor]] = [partial(torch.mul, other=2.0)]
        self.act = lru_cache(maxsize=None)(lambda name: getattr(torch, name))

    @cached_property
    def bias(self) -> float:
        return 0.5

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.act("tanh")(self.b(self.a(x))) + self.bias  # type: ignore[no-any-return]


class Recurrent(Model):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(W, W)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.state is None or len(self.state) != len(x):
            self.state = torch.zeros_like(x)
        self.state = self.cell(self.a(x), self.state.detach())
        return self.b(self.state)  # type: ignore[no-any-return]


class Named(Model):
    """Arguments by name, kinds of outputs, and None."""

    def forward(self, x: Tensor, *, scale: float | None = None, deep: bool = True) -> Any:
        y = self.a(x)
        y = y if scale is None else y * scale
        return OrderedDict(out=self.b(y) if deep else y, first=y)


class Stacked(Model):
    """A context stack, an exception on the way, and a nested module that is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Sequential(self.a, nn.ReLU(), self.a)

    def forward(self, x: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            stack.callback(self.kept.append, len(x))
            if self.training:
                stack.enter_context(torch.enable_grad())
            try:
                x = self.again(x[:, : W + len(self.kept) % 2 * 0])
                self.b(x[:, 1:])
            except RuntimeError:
                self.kept.append("caught")
        return self.b(x)  # type: ignore[no-any-return]


CASES: list[type[Model]] = sorted(Model.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_it_does_what_the_original_does(
    kind: type[Model], example: bool, check_original: CheckOriginal
) -> None:
    # A few units in the last place of bfloat16 under autocast; elsewhere those of float32 sums.
    limits = {"rtol": 2**-5, "atol": 2**-5} if kind is Islands else {}
    named = {"named": lambda number: {"scale": 0.5 + number}} if kind is Named else {}
    check_original(kind, example, **limits, **named)
