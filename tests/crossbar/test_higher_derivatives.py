"""Gradients of gradients, forward-mode derivatives and the transforms of torch.func.

The reference is the straight-through surrogate: the digital product of what the DAC makes of the
inputs and of clean weights, whose gradients an operator has by definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from analogize import Target, analogize, erase, noise_mode, program
from analogize.errors import AnalogizeError, CalibrationError, ChipError, EvaluationError

Make = Callable[..., Target]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

# Wide enough that nothing saturates, except where a test wants it to.
CONVERTER = {"bits": 15, "range": {"kind": "fixed", "min": -8.0, "max": 8.0}}
WEIGHTS = {"bits": 15, "range": {"kind": "fixed", "min": -1.0, "max": 1.0}}
NOISE = [{"model": "gaussian", "eta": 0.00005}]
SETTINGS: dict[str, dict[str, Any]] = {
    "weights only": {},
    "converters": {"dac": CONVERTER, "adc": CONVERTER},
    "vectors": {"dac": {"bits": 15, "range": {"kind": "vector"}}, "adc": CONVERTER},
    "tiles": {
        "dac": CONVERTER,
        "adc": CONVERTER,
        "array": {"rows": 8, "cols": 64, "tiling": True},
    },
}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(-3)).tanh())  # type: ignore[no-any-return]


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh().flatten(-3))  # type: ignore[no-any-return]


class Direct(nn.Module):
    """Weights that Python uses itself, which the interception follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(6, 20))
        self.second = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(-3) @ self.weight.t())
        return self.second(hidden)  # type: ignore[no-any-return]


X = torch.randn(16, 1, 4, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SETTINGS)
def target(request: Any, make_target: Make) -> Target:
    return make_target(weights=WEIGHTS, noise=NOISE, **SETTINGS[request.param])


def rewritten(kind: type[nn.Module], target: Target, chip: bool = True) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = kind().eval()
    analog = analogize(model, target, calibration=[X]).eval()
    if chip:
        program(analog, 0)
    return model, analog


def close(found: Any, expected: Any) -> None:
    """Noise of 0.0001 on weights of 0.2 is 0.05 %; the limit is 1 % of the largest value."""
    found, expected = found.detach(), expected.detach()
    limit = 0.01 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


def penalty(model: nn.Module) -> list[Tensor]:
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    loss = (g.flatten(1).norm(2, 1) - 1).square().mean()
    return list(torch.autograd.grad(loss, [next(model.parameters()), x]))


@pytest.mark.parametrize("kind", [Linear, Conv, Direct])
def test_gradients_of_gradients_are_those_of_the_surrogate(
    kind: type[nn.Module], target: Target
) -> None:
    model, analog = rewritten(kind, target)
    for found, expected in zip(penalty(analog), penalty(model), strict=True):
        close(found, expected)


@pytest.mark.parametrize("chip", [True, False])
@pytest.mark.parametrize("kind", [Linear, Conv, Direct])
def test_gradients_of_every_sample(kind: type[nn.Module], chip: bool, target: Target) -> None:
    model, analog = rewritten(kind, target, chip)

    def of(module: nn.Module) -> dict[str, Tensor]:
        held = {name: p.detach() for name, p in module.named_parameters()}

        def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(module, p, (x[None],)).sum()  # type: ignore[no-any-return]

        found: dict[str, Tensor] = vmap(grad(loss), (None, 0))(held, X)
        return found

    found, expected = of(analog), of(model)
    for name, value in expected.items():
        close(found[name], value)


@pytest.mark.parametrize("kind", [Linear, Conv, Direct])
def test_jacobians_and_hessians(kind: type[nn.Module], target: Target) -> None:
    model, analog = rewritten(kind, target)
    tangent = torch.ones_like(X)
    for transform in (jacrev, jacfwd, hessian):
        close(transform(analog)(X[0]), transform(model)(X[0]))
    found, expected = jvp(analog, (X,), (tangent,)), jvp(model, (X,), (tangent,))
    close(found[1], expected[1])
    assert found[0].equal(analog(X))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, tangent)
        close(forward_ad.unpack_dual(analog(dual)).tangent, expected[1])
    for vectorize in (False, True):
        second = torch.autograd.functional.hessian(
            lambda x: analog(x).sum(), X[0], False, vectorize
        )
        close(second, torch.autograd.functional.hessian(lambda x: model(x).sum(), X[0]))


@pytest.mark.parametrize("mode", ["off", "programmed", "fresh"])
def test_values_under_transforms_are_those_without(mode: Any, target: Target) -> None:
    _, analog = rewritten(Conv, target)
    with noise_mode(analog, mode), torch.no_grad():
        torch.manual_seed(3)
        expected = analog(X)
        torch.manual_seed(3)
        found = vmap(analog)(X)
    # One pass, one draw: all samples see one array. Sums may be added up in another order, and
    # then round to a neighbouring code.
    close(found, expected)
    if mode == "off":
        assert (found == expected).float().mean() > 0.5


def test_saturated_converters_stop_every_derivative(make_target: Make) -> None:
    said = {"bits": 8, "range": {"kind": "fixed", "min": -1.0, "max": 1.0}}
    analog = analogize(nn.Linear(3, 1, bias=False), make_target(dac=said, weights=WEIGHTS))
    x = torch.tensor([0.3, 5.0, -0.2])
    first = jacrev(lambda x: analog(x).square())(x)
    assert first[0, 1] == 0
    assert bool((first[0, [0, 2]] != 0).all())
    second = hessian(lambda x: analog(x).square().sum())(x)
    assert second[1].tolist() == second[:, 1].tolist() == [0, 0, 0]
    assert second[0, 2] != 0


def test_ordinary_gradients_are_the_same_with_and_without_a_graph(target: Target) -> None:
    _, analog = rewritten(Conv, target)
    found = []
    for again in (False, True):
        x = X.clone().requires_grad_()
        wanted = [x, *analog.parameters()]
        found.append(torch.autograd.grad(analog(x).sum(), wanted, create_graph=again))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)


def test_a_hook_of_the_input_runs_once_a_backward_pass(target: Target) -> None:
    _, analog = rewritten(Linear, target)
    calls = []
    x = X.clone().requires_grad_()
    x.register_hook(lambda g: calls.append(1))
    torch.autograd.grad(analog(x).sum(), x, create_graph=True)
    assert len(calls) == 1


def test_a_chip_is_not_used_with_several_sets_of_weights(target: Target) -> None:
    _, analog = rewritten(Linear, target)
    several = {n: torch.stack([p, p + 1]).detach() for n, p in analog.named_parameters()}

    def of(p: dict[str, Tensor]) -> Tensor:
        return functional_call(analog, p, (X,))  # type: ignore[no-any-return]

    with pytest.raises(ChipError, match=r"region 'first'.*one set of weights"):
        vmap(of)(several)
    changed = {n: p[1] for n, p in several.items()}
    with pytest.raises(ChipError, match="weights changed"):
        grad(lambda p: of(p).sum())(changed)
    erase(analog)
    found = vmap(of, randomness="different")(several)
    assert found.shape == (2, 16, 1)


def test_noise_of_every_product_asks_for_the_randomness_of_vmap(make_target: Make) -> None:
    noise = [{"model": "output", "std": 0.01}]
    said = make_target(weights=WEIGHTS, dac=CONVERTER, adc=CONVERTER, noise=noise)
    _, analog = rewritten(Linear, said)
    with pytest.raises(EvaluationError, match=r"region 'first'.*randomness='different'"):
        vmap(analog)(X)
    assert vmap(analog, randomness="different")(X).shape == (16, 1)


def test_what_waits_for_a_range_cannot_be_transformed(make_target: Make) -> None:
    model = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].bias.data.fill_(-100.0)
    said = {"bits": 8, "range": {"kind": "minmax"}}
    with pytest.warns(UserWarning, match="nothing but zeros"):
        analog = analogize(model, make_target(dac=said, adc=said), [X.flatten(1)])
    with pytest.raises(CalibrationError, match=r"region '2'.*torch.func"):
        vmap(analog)(X.flatten(1))
    assert issubclass(CalibrationError, AnalogizeError)


@pytest.mark.parametrize("name", ["pcm_joshi2020", "isaac"])
def test_chips_of_devices(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1)).eval()
    x = X.flatten(1)[:, :8]
    analog = analogize(model, name, calibration=[x])
    program(analog, 0)
    y = torch.autograd.functional.jacobian(analog, x[:1])[0, :, 0]
    torch.testing.assert_close(vmap(jacrev(analog))(x[:1])[0], y)
    assert hessian(analog)(x[0]).abs().sum() > 0
