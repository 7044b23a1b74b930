"""Weights that are computed before each call: norms, parametrizations, and lazy shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from analogize import analogize, census, noise_mode, program, summary
from analogize.errors import CaptureError, ChipError
from analogize.targets.spec import Target


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


class Low(nn.Module):
    """A low-rank update that is merged into the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))

    def forward(self, w: Tensor) -> Tensor:
        return w + self.up @ self.down


def parametrized(part: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(nn.Linear(4, 4), "weight", part)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "own": lambda: parametrized(Symmetric()),
    "low rank": lambda: parametrized(Low()),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(4, 4)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "old weight norm of a recurrent layer": lambda: First(
        nn.utils.weight_norm(nn.LSTM(4, 4), "weight_hh_l0")
    ),
}


class First(nn.Module):
    """The first of several results."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)[0]
        return y


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def build(name: str) -> nn.Module:
    return nn.Sequential(MODELS[name](), nn.Tanh(), nn.Linear(4, 2))


def noisy(eta: float = 0.1) -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 8}
    noise = [{"model": "gaussian", "eta": eta}]
    fields = {"schema": 1, "name": "noisy", "weights": weights, "noise": noise}
    return Target.model_validate(fields)


OLD = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")


@OLD
@pytest.mark.parametrize("name", MODELS)
def test_everything_is_converted_and_equal(name: str) -> None:
    model, x = build(name).train(), torch.randn(3, 4)
    before = copy.deepcopy(model.state_dict())
    analog = analogize(model, "ideal", example_inputs=x)
    assert summary(analog).converted_share == 1
    for state in (model.state_dict(), {k: analog.state_dict()[k] for k in before}):
        for key, value in before.items():
            assert torch.equal(state[key], value), key
    # Through training, where spectral norms take a step in every call, and back.
    for train in (False, True, True, False):
        x, results = torch.randn(3, 4), []
        for each in (model, analog):
            each.zero_grad()
            y = each.train(train)(x)
            y.square().sum().backward()
            grads = [each.get_parameter(n).grad for n, _ in model.named_parameters()]
            results.append([y, *grads, *(each.get_buffer(n) for n, _ in model.named_buffers())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@OLD
@pytest.mark.parametrize("name", MODELS)
def test_a_chip_holds_the_computed_weight(name: str) -> None:
    x = torch.randn(3, 4)
    analog = analogize(build(name), noisy(), example_inputs=x)
    with torch.no_grad():
        program(analog, 0)
        analog.eval()
        first = analog(x)
        assert torch.equal(analog(x), first)
        program(analog, 1)
        assert not torch.equal(analog(x), first)
        program(analog, 0)
        assert torch.equal(analog(x), first)
        with noise_mode(analog, "off"):
            clean = analog(x)
    assert 0 < float((first - clean).abs().max()) < 1
    # A parameter behind the weight changed: the chip is another one's.
    parameter = next(
        p for n, p in analog.named_parameters() if n.startswith("0.") and "weight" in n
    )
    with torch.no_grad():
        parameter[-1] += 0.3
    with pytest.raises(ChipError, match="weights changed after the chip was programmed"):
        analog(x)
    program(analog, 0)
    assert not torch.equal(analog(x), first)


@OLD
@pytest.mark.parametrize("name", ["weight norm", "old weight norm", "old spectral norm"])
def test_copies_compute_weights_of_their_own(name: str) -> None:
    x = torch.randn(3, 4)
    model = build(name).eval()
    model(x)  # torch does not copy what the old forms computed with a graph
    analog = analogize(model, "ideal", example_inputs=x)
    with torch.no_grad():
        expected = analog(x)
        twin = copy.deepcopy(analog)
        torch.testing.assert_close(twin(x), expected)
        for parameter in analog.parameters():
            parameter.mul_(0.5)
        torch.testing.assert_close(twin(x), expected)
        assert not torch.allclose(analog(x), expected)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.Flatten(), nn.LazyLinear(2))


def test_lazy_modules_get_their_shape_in_the_copy_alone() -> None:
    model, x = lazy(), torch.randn(3, 5, 8)
    found = census(model, x)
    analog = analogize(model, "ideal", example_inputs=x)
    assert all(
        isinstance(p, nn.UninitializedParameter)
        for n, p in model.named_parameters()
        if "weight" in n
    )
    assert [type(m).__name__ for m in model][::3] == ["LazyConv1d", "LazyLinear"]
    assert summary(analog).converted_share == 1
    assert summary(analog).total_macs == found.macs == 3 * (5 * 3 * 4 * 6 + 24 * 2)
    assert analog(torch.randn(7, 5, 8)).shape == (7, 2)
    same = analogize(model, "ideal", calibration=[x], inplace=True)
    assert same.get_parameter("0.weight") is model.get_parameter("0.weight")
    with pytest.raises(CaptureError, match=r"'0.weight' has no shape.*pass example_inputs"):
        analogize(lazy(), "ideal")
