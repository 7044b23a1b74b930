"""One outermost forward call is one pass: every array draws its noise once in it."""

import copy
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from analogize import Target, analogize, noise_level, noise_mode, program
from analogize.crossbar.ops import operators
from analogize.model import one_pass as passes
from analogize.model.one_pass import one_pass, running_pass

GAUSSIAN = {"model": "gaussian", "eta": 0.05}
PROGRAMMING = {
    "model": "programming",
    "sigma": {"kind": "polynomial", "coefficients": [0.5]},
    "valid": {"min": 0.0, "max": 25.0},
}
DEVICES: dict[str, Any] = {
    "noise": [PROGRAMMING],
    "conductance": {"g_min": 0.1, "g_max": 25.0, "pairs": 1},
}


def target(bits: int | None = None, **settings: Any) -> Target:
    weights = {"range": {"kind": "fixed", "min": -1.0, "max": 1.0}, "bits": bits}
    return Target.model_validate({"name": "t", "weights": weights, "noise": [GAUSSIAN]} | settings)


TARGETS = {
    "gaussian": target(),
    "codes": target(8),
    "level drawn": target(noise=[GAUSSIAN | {"eta_std": 0.01}]),
    "two models": target(noise=[GAUSSIAN, {"model": "fixed_snr", "ratio": 0.1}]),
    "devices": target(**DEVICES),
}


class Twice(nn.Module):
    """Uses one layer twice; with ``branches`` on values, so that its Python is kept."""

    def __init__(self, branches: bool = False) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        if self.branches and x.sum() > torch.inf:
            return x
        return self.layer(x) - self.layer(x) + 0 * self.other(x)


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_an_array_used_twice_holds_the_same_weights(name: str, branches: bool) -> None:
    x = torch.randn(32, 8)
    analog = analogize(Twice(branches).train(), TARGETS[name], example_inputs=x)
    assert analog(x).abs().max() == 0
    assert analog.eval()(x).abs().max() == 0
    program(analog, 0)
    assert analog(x).abs().max() == 0


@pytest.mark.parametrize("name", TARGETS)
def test_passes_differ_and_the_global_seed_decides_them(name: str) -> None:
    x = torch.randn(5, 8)
    analog = analogize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).train(), TARGETS[name])
    torch.manual_seed(1)
    first, second = analog(x), analog(x)
    assert not first.equal(second)
    torch.manual_seed(1)
    assert analog(x).equal(first)
    assert analog(x).equal(second)


@pytest.mark.parametrize("name", ["gaussian", "codes", "two models", "devices"])
def test_drawn_together_or_alone_the_moments_are_those_of_chips(name: str) -> None:
    """Standard deviation of 96 x 64 weights over passes, beside chips: 3 % is over 3 sigma."""
    layers = nn.Sequential(nn.Linear(64, 96, bias=False), nn.Linear(96, 64, bias=False))
    analog = analogize(layers, TARGETS[name])
    op, weight, eye = operators(analog)[0], analog.get_parameter("0.weight"), torch.eye(64)
    with torch.no_grad(), noise_mode(analog, "off"):
        clean = op(eye, weight)
    spreads = []
    for fresh in (True, False):
        errors = []
        for seed in range(4):
            if not fresh:
                program(analog, seed)
            with torch.no_grad(), noise_mode(analog, "fresh" if fresh else "programmed"):
                # The product with the identity is the matrix.
                errors.append(op(eye, weight) - clean)
        spreads.append(float(torch.stack(errors).std()))
    assert spreads[0] == pytest.approx(spreads[1], rel=0.03)


def test_silent_noise_is_the_identity_and_draws_nothing() -> None:
    x = torch.randn(5, 8)
    analog = analogize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).train(), target(8))
    with noise_mode(analog, "off"):
        expected = analog(x)
    state = torch.get_rng_state()
    with noise_level(analog, 0.0):
        assert analog(x).equal(expected)
    program(analog, 0)
    with noise_mode(analog, "programmed"):
        analog(x)
    assert torch.get_rng_state().equal(state)


class Recurrent(nn.Module):
    """h <- W h, W near the identity."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.layer = steps, nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = self.layer(x)
        return x


def test_a_recurrent_network_deviates_as_programmed_chips_do() -> None:
    """Mean squared deviation over 1,000 draws each; the tolerance is four standard errors."""
    x = torch.eye(4)
    analog = analogize(Recurrent(10), target(noise=[GAUSSIAN | {"eta": 0.01}]))
    fresh, chips = [], []
    with torch.no_grad():
        for seed in range(1000):
            with noise_mode(analog, "fresh"):
                fresh.append((analog(x) - x).square().mean())
            program(analog, seed)
            chips.append((analog(x) - x).square().mean())
    a, b = torch.stack(fresh), torch.stack(chips)
    error = float((a.var() / 1000 + b.var() / 1000).sqrt())
    assert abs(float(a.mean() - b.mean())) <= 4 * error


class Blocks(nn.Module):
    """Blocks of two layers and a dropout, checkpointed or not; Python that is kept."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 8))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > torch.inf:
            return x
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x).relu()
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant).relu()
        return x


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "codes", "two models"])
def test_checkpointed_blocks_have_the_gradients_of_the_same_noise(
    name: str, reentrant: bool
) -> None:
    plain = analogize(Blocks(None).train(), TARGETS[name], example_inputs=torch.randn(5, 8))
    again = copy.deepcopy(plain)
    again.reentrant = reentrant
    x = torch.randn(5, 8)
    for accumulated in range(2):
        losses = []
        for model in (plain, again):
            torch.manual_seed(accumulated)
            inputs = x.clone().requires_grad_()
            losses.append(model(inputs).square().sum() + model(inputs).sum())
            if accumulated:
                model(inputs)  # a pass in between
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_model_has_the_gradients_of_the_same_noise(
    reentrant: bool,
) -> None:
    model = analogize(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), target(8))
    x = torch.randn(5, 8, requires_grad=True)
    torch.manual_seed(3)
    model.train()(x).square().sum().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    for one, parameter in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_a_block_makes_several_calls_one_pass() -> None:
    model = analogize(nn.Linear(8, 3).train(), target())
    x = torch.randn(5, 8)
    with one_pass(model):
        first = model(x)
        with one_pass(model):
            assert model(x).equal(first)
        assert model(x).equal(first)
    assert not model(x).equal(first)


def test_parts_of_one_pass_do_not_share_noise() -> None:
    part = analogize(nn.Linear(8, 3).train(), target())
    twin, x = copy.deepcopy(part), torch.randn(5, 8)
    with one_pass(nn.ModuleList([part, twin])):
        assert not part(x).equal(twin(x))


class Nested(nn.Module):
    """Calls itself, one level deep, and an analog part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, deep: bool = True) -> Tensor:
        y = self.layer(x)
        return y - self(x, False) if deep else y


def test_a_model_that_calls_itself_stays_in_its_pass() -> None:
    x = torch.randn(5, 8)
    model = analogize(Nested().train(), target(), example_inputs=x, capture="hierarchical")
    assert model(x).abs().max() == 0
    assert running_pass() is None


def test_a_hook_that_calls_the_model_stays_in_its_pass() -> None:
    x = torch.randn(5, 8)
    model = analogize(nn.Sequential(nn.Linear(8, 8)).train(), target())
    inside: list[Tensor] = []

    def hook(module: nn.Module, args: Any, y: Tensor) -> None:
        if not inside:
            inside.append(y)
            inside.append(model(x))

    model.register_forward_hook(hook)
    y = model(x)
    assert inside[1].equal(y)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, fail: bool = False) -> Tensor:
        y = self.layer(x)
        if fail:
            raise ArithmeticError
        return y


def test_a_pass_that_raises_leaves_nothing_behind() -> None:
    x = torch.randn(5, 8)
    model = analogize(Fails().train(), target(), example_inputs=x, capture="hierarchical")
    with pytest.raises(ArithmeticError):
        model(x, fail=True)
    assert running_pass() is None
    assert not model(x).equal(model(x))


class Lazily(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        for _ in range(3):
            x = self.layer(x)
            yield x


def test_a_generator_left_unconsumed_leaves_no_pass_open() -> None:
    x = torch.randn(5, 8)
    model = analogize(Lazily().train(), target(), capture="hierarchical")
    unfinished = model(x)
    next(unfinished)
    assert running_pass() is None
    assert not next(model(x)).equal(next(model(x)))


def test_what_a_pass_keeps_is_freed_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = analogize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).train(), target())
    kept: list[weakref.ref[Tensor]] = []
    ended = passes.Pass.end

    def end(self: passes.Pass) -> None:
        kept.extend(weakref.ref(d.used) for d in self.kept.values() if isinstance(d, tuple))
        ended(self)

    monkeypatch.setattr(passes.Pass, "end", end)
    model(torch.randn(5, 8)).sum().backward()
    gc.collect()
    assert len(kept) == 2
    assert all(ref() is None for ref in kept)


def test_threads_have_passes_of_their_own() -> None:
    model = analogize(Twice().train(), target())
    x, found = torch.randn(5, 8), list[float]()

    def work() -> None:
        found.extend(float(model(x).detach().abs().max()) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0.0] * 80


@pytest.mark.parametrize("name", ["gaussian", "codes", "level drawn", "two models"])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_compiled_code_draws_the_same_noise_once_a_pass(name: str) -> None:
    layers = nn.Sequential(Twice(), nn.Linear(8, 8), nn.Linear(8, 8))
    analog = analogize(layers.train(), TARGETS[name])
    compiled = torch.compile(analog, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 8)
    torch.manual_seed(2)
    expected = [analog(x), analog(x)]
    torch.manual_seed(2)
    found = [compiled(x), compiled(x)]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
