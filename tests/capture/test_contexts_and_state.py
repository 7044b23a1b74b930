"""The rewritten model runs in the user's contexts and modes, and keeps the user's state."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, census, regions, summary
from analogize.errors import AnalogizeError, CalibrationError, CaptureError

WIDTH = 8


class Model(nn.Module):
    """Two layers, a matrix that Python uses directly, and whatever a test hangs onto it."""

    def __init__(self, direct: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3) if direct else None
        self.alpha: Any = 0.0

    def head(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x)
        return y if self.w is None else y @ self.w

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x))


def both(model: nn.Module, **options: Any) -> tuple[nn.Module, Any]:
    analog = analogize(model, "ideal", example_inputs=torch.randn(4, WIDTH), **options)
    assert summary(analog).converted_share == 1
    return model, analog


DIRECT = pytest.mark.parametrize("direct", [False, True])


class Mixing(Model):
    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.alpha) * self.a(x) + self.alpha * self.head(x)


@DIRECT
@pytest.mark.parametrize("wrapped", [False, True])
def test_attributes_that_change_later(direct: bool, wrapped: bool) -> None:
    inner = Mixing(direct)
    model, analog = both(nn.Sequential(inner) if wrapped else inner)
    x = torch.randn(4, WIDTH)
    for value in (1.0, 0.25, torch.tensor(0.5)):
        for each in (model, analog):
            (each[0] if wrapped else each).alpha = value
        torch.testing.assert_close(analog(x), model(x))


@torch.no_grad()
def decorated(self: Model, x: Tensor) -> Tensor:
    return self.head(self.a(x))


def island_without_gradients(self: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.a(x)
    return self.head(y)


def island_with_gradients(self: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.a(x)
        with torch.enable_grad():
            return self.head(y)


def island_of_inference(self: Model, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = self.a(x)
    return self.head(y.clone())


def island_without_autocast(self: Model, x: Tensor) -> Tensor:
    y = self.a(x)
    with torch.autocast("cpu", enabled=False):
        return self.head(y.float())


def island_with_autocast(self: Model, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.a(x)
    return self.head(y.float())


def branch_on_gradients(self: Model, x: Tensor) -> Tensor:
    return self.head(self.a(x)) if torch.is_grad_enabled() else self.a(x)


def branch_on_autocast(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.is_autocast_enabled("cpu") else self.head(self.a(x))


def branch_on_determinism(self: Model, x: Tensor) -> Tensor:
    sure = torch.are_deterministic_algorithms_enabled()
    return self.a(x) if sure else self.head(self.a(x))


def branch_on_the_default_dtype(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.get_default_dtype() == torch.float64 else self.head(self.a(x))


def branch_on_scripting(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.jit.is_scripting() else self.head(self.a(x))


CONTEXTS = [
    decorated,
    island_without_gradients,
    island_with_gradients,
    island_of_inference,
    island_without_autocast,
    island_with_autocast,
    branch_on_gradients,
    branch_on_autocast,
    branch_on_determinism,
    branch_on_the_default_dtype,
    branch_on_scripting,
]


def made(forward: Callable[..., Any], direct: bool) -> Model:
    kind = type("Made", (Model,), {"forward": forward})
    model: Model = kind(direct)
    return model


@DIRECT
@pytest.mark.parametrize("forward", CONTEXTS)
def test_contexts_and_global_modes(forward: Any, direct: bool) -> None:
    model, analog = both(made(forward, direct))
    x = torch.randn(4, WIDTH)

    def outcome(each: nn.Module) -> list[Any]:
        each.zero_grad()
        y = each(x)
        if y.requires_grad:
            y.float().sum().backward()
        reached = [n for n, p in each.named_parameters() if p.grad is not None]
        found = [y.detach(), y.requires_grad, reached]
        with torch.no_grad():
            found.append(each(x).detach())
        with torch.autocast("cpu", torch.bfloat16):
            found.append(each(x).detach())
        try:
            torch.use_deterministic_algorithms(True)
            torch.set_default_dtype(torch.float64)
            found.append(each(x).detach())
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
        return found

    for actual, expected in zip(outcome(analog), outcome(model), strict=True):
        if isinstance(expected, Tensor):
            assert actual.dtype == expected.dtype
            torch.testing.assert_close(actual, expected)
        else:
            assert actual == expected


@dataclass
class Meter:
    seen: int = 0
    last: list[Any] = field(default_factory=list)

    def update(self, y: Tensor) -> None:
        self.seen += 1
        self.last.append(y.detach())


TOTAL = {"calls": 0}


class Remembering(Model):
    """Every place in which Python can keep something between calls."""

    def __init__(self, seed: int = 0, direct: bool = False) -> None:
        super().__init__(direct)
        self.log: dict[str, Any] = {"deep": {"acts": [], "queue": deque(maxlen=3)}}
        self.meter, self.shapes = Meter(), set[tuple[int, ...]]()
        self.count, self.python = 0, random.Random(seed)
        self.numpy, self.torch = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self.means = np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.a(x))
        self.log["deep"]["acts"].append(y.detach())
        self.log["deep"]["queue"].append(float(y.detach().sum()))
        self.meter.update(y)
        self.shapes.add(tuple(x.shape))
        self.count += 1
        self.means += 1
        TOTAL["calls"] += 1
        with torch.no_grad():
            self.a.weight.clamp_(-0.2, 0.2)
        self.b.weight.data.copy_(self.b.weight.data.clamp(-0.2, 0.2))
        if self.python.random() < 0.5 or self.numpy.random() < 0.3:
            return x
        return y * torch.rand(1, generator=self.torch)

    def state(self) -> Any:
        acts = len(self.log["deep"]["acts"]), len(self.log["deep"]["queue"])
        return acts, self.meter.seen, self.shapes, self.count, self.means.tolist()


@DIRECT
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("inplace", [False, True])
def test_state_is_kept_in_every_call_and_rewriting_leaves_it(
    seed: int, direct: bool, inplace: bool
) -> None:
    model, twin = Remembering(seed, direct), Remembering(seed, direct)
    twin.load_state_dict(model.state_dict())
    weight = model.a.weight.detach().clone()
    _, analog = both(model, inplace=inplace)
    assert analog.state() == ((0, 0), 0, set(), 0, [0, 0])
    assert torch.equal(analog.a.weight, weight)
    calls = TOTAL["calls"]
    for _ in range(12):
        x = torch.randn(3, WIDTH)
        torch.testing.assert_close(analog(x), twin(x))
    assert TOTAL["calls"] == calls + 24
    assert analog.state() == twin.state()
    assert {type(v) for v in analog.log["deep"]["acts"]} == {Tensor}
    if not inplace:
        assert model.state() == ((0, 0), 0, set(), 0, [0, 0])
        assert torch.equal(model.a.weight, weight)


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_refuses_state_at_any_depth_and_leaves_no_proxy(seed: int) -> None:
    model = Remembering(seed)
    with pytest.raises(CaptureError):
        analogize(model, "ideal", example_inputs=torch.randn(4, WIDTH), capture="fx")
    assert model.state() == ((0, 0), 0, set(), 0, [0, 0])


def test_the_census_leaves_everything_as_it_was() -> None:
    model = Remembering(1)
    before, weight = model.python.getstate(), model.a.weight.detach().clone()
    census(model, torch.randn(4, WIDTH))
    assert model.state() == ((0, 0), 0, set(), 0, [0, 0])
    assert model.python.getstate() == before
    assert torch.equal(model.a.weight, weight)


@pytest.mark.parametrize("capture", ["auto", "hierarchical", "intercept", "fx"])
def test_inplace_is_all_or_nothing(capture: Any) -> None:
    model, x = Model(direct=True), torch.randn(4, WIDTH)
    keys, kinds, expected = list(model.state_dict()), [type(m) for m in model.modules()], model(x)
    broken = [(torch.full((4, WIDTH), torch.nan),)]
    options: dict[str, Any] = {"inplace": True, "capture": capture}
    with pytest.raises((CalibrationError, CaptureError)):
        analogize(model, "pcm_8bit", broken, **options)
    with pytest.raises(AnalogizeError):
        analogize(model, "pcm_8bit", [(x,)], digital=["nothing"], **options)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == kinds
    assert not hasattr(model, "report")
    assert torch.equal(model(x), expected)
    assert len(regions(analogize(model, "pcm_8bit", [(x,)], inplace=True))) == 3
