"""Programming: moments against formulas.

Tolerances are five standard errors: a mean over n draws of spread s has s / sqrt(n), a standard
deviation of normal draws s / sqrt(2 n).
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from analogize.devices.curves import evaluate
from analogize.devices.programming import (
    Miss,
    between,
    programming_noise,
    stick,
    variation,
)
from analogize.targets.curve import (
    Curve,
    Logarithmic,
    Piecewise,
    Polynomial,
    Power,
    Saturating,
)

DRAWS = 100_000


def normal(seed: int = 0) -> Tensor:
    return torch.randn(DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("curve", "sigma"),
    [
        # Joshi (aihwkit), Joshi (CrossSim), Milo, Wan (CrossSim) and SONOS at several conductances
        (Polynomial(coefficients=(0.26348, 1.9650, -1.1731), reference=25.0), (10.0, 0.861784)),
        (Polynomial(coefficients=(0.28638599, 0.07585724, -0.00178767)), (10.0, 0.866191)),
        (Polynomial(coefficients=(4.782321, -0.009107)), (50.0, 4.326971)),
        (Polynomial(coefficients=(4.782321, -0.009107)), (225.0, 2.733246)),
        (Polynomial(coefficients=(1.053, 0.2374, -1.167e-2, 1.536e-4)), (20.0, 2.361800)),
        (Saturating(amplitude=19.887, constant=176.31), (1600.0, 19.88471)),
    ],
)
def test_moments(curve: Curve, sigma: tuple[float, float]) -> None:
    conductance, expected = sigma
    target = torch.full((DRAWS,), conductance)

    found = evaluate(curve, target)
    programmed = programming_noise(target, found, normal())

    assert float(found[0]) == pytest.approx(expected, rel=1e-5)
    error = expected / math.sqrt(DRAWS)
    assert float(programmed.mean()) == pytest.approx(conductance, abs=5 * error)
    assert float(programmed.std()) == pytest.approx(expected, abs=5 * error / math.sqrt(2))


def test_no_conductance_is_negative() -> None:
    target = torch.zeros(DRAWS)
    programmed = programming_noise(target, torch.ones(()), normal())

    # Half of the draws are cut off: the mean of max(0, N(0, 1)) is 1 / sqrt(2 pi).
    assert float(programmed.min()) == 0
    half_normal = 1 / math.sqrt(2 * math.pi)
    assert float(programmed.mean()) == pytest.approx(half_normal, abs=5 * 0.6 / math.sqrt(DRAWS))


def test_curves_at_zero_and_at_their_limits() -> None:
    g = torch.tensor([0.0, 1e-9, 0.5, 25.0])
    nu = Logarithmic(slope=-0.0155, intercept=0.0244, min=0.049, max=0.1, reference=25.0)
    flat = Logarithmic(slope=0.0, intercept=0.06, min=0.049, max=0.1)
    q = Power(coefficient=0.0088, exponent=0.65, max=0.2, reference=25.0)
    constant = Power(coefficient=0.1, exponent=0.0, max=0.2)
    split = Piecewise(
        split=0.5, low=Polynomial(coefficients=(1.0,)), high=Polynomial(coefficients=(2.0,))
    )

    # -0.0155 ln(0.02) + 0.0244 = 0.08504; 0.0088 / 0.02^0.65 = 0.11191
    assert_close(evaluate(nu, g), torch.tensor([0.1, 0.1, 0.085036, 0.049]), rtol=1e-4, atol=0)
    assert_close(evaluate(flat, g), torch.full((4,), 0.06))
    assert_close(evaluate(q, g), torch.tensor([0.2, 0.2, 0.111906, 0.0088]), rtol=1e-4, atol=0)
    assert_close(evaluate(constant, g), torch.full((4,), 0.1))
    assert evaluate(split, g).tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("scale", "halfway"),
    [("logarithmic", math.sqrt(2.0 * 86401.0) - 1), ("linear", 86401.0 / 2)],
)
def test_between_measurements(scale: Any, halfway: float) -> None:
    times = [1.0, 86400.0]

    assert between(times, 0.0, scale) == between(times, 1.0, scale) == (0, 0, 0.0)
    assert between(times, 86400.0, scale) == (1, 1, 0.0)
    assert between(times, halfway, scale) == (0, 1, pytest.approx(0.5))
    with pytest.raises(ValueError, match="measured up to 86400 s after programming, not 86401 s"):
        between(times, 86401.0, scale)


def test_a_miss_between_two_takes_a_missing_bias_for_zero() -> None:
    first, second = Miss(torch.tensor([1.0])), Miss(torch.tensor([3.0]), torch.tensor([-2.0]))

    halfway = first.towards(second, 0.5)

    assert halfway.bias is not None
    assert (float(halfway.sigma), float(halfway.bias)) == (2.0, -1.0)
    assert first.towards(first, 0.5).bias is None
    assert float(halfway.scaled(2).applied(torch.tensor([10.0]), torch.ones(1))) == 10 - 2 + 4


@pytest.mark.parametrize(
    ("kind", "spread"), [("gaussian", 0.1), ("lognormal", math.sqrt(math.expm1(0.01)))]
)
def test_variation(kind: str, spread: float) -> None:
    varied = variation(torch.full((DRAWS,), 5.0), 0.1, normal(1), kind)  # type: ignore[arg-type]

    error = 5 * spread / math.sqrt(DRAWS)
    assert float(varied.mean()) == pytest.approx(5.0, abs=5 * error)
    # The lognormal's fourth moment makes the error of its deviation 8 % larger; 5 become 6.
    assert float(varied.std()) == pytest.approx(5 * spread, abs=6 * error / math.sqrt(2))


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.001), (0.2, 0.3), (0.0, 0.0), (0.5, 0.5)])
def test_stuck_devices(low: float, high: float) -> None:
    uniform = torch.rand(DRAWS, generator=torch.Generator().manual_seed(2))
    found = stick(torch.full((DRAWS,), 5.0), low, high, uniform, 1.0, 9.0)

    for value, share in ((1.0, low), (9.0, high), (5.0, 1 - low - high)):
        tolerance = 5 * math.sqrt(share * (1 - share) / DRAWS)
        assert float((found == value).float().mean()) == pytest.approx(share, abs=tolerance + 1e-7)
