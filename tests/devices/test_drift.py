"""Drift and 1/f noise: moments at several times, and both ends of their validity."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from analogize.devices.drift import (
    drift_exponents,
    logarithmic,
    one_over_f,
    one_over_f_ratio,
    power_law,
)

DRAWS = 100_000
YEAR = 365 * 86400.0


def normal(seed: int = 0) -> Tensor:
    return torch.randn(DRAWS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("time", [0.0, 1.0, 3600.0, 86400.0, YEAR])
@pytest.mark.parametrize(("mean", "std"), [(0.049, 0.008), (0.06, 0.01)])
def test_power_law(time: float, mean: float, std: float) -> None:
    nu = drift_exponents(torch.full((DRAWS,), mean), torch.full((DRAWS,), std), normal())
    found = power_law(torch.full((DRAWS,), 10.0), nu, time, 20.0)

    # exp(-nu L) is log-normal with L = ln((t + t0) / t0).
    log = math.log((time + 20) / 20)
    expected = 10 * math.exp(-mean * log + (std * log) ** 2 / 2)
    spread = expected * math.sqrt(math.expm1((std * log) ** 2))
    assert float(found.mean()) == pytest.approx(expected, abs=5 * spread / math.sqrt(DRAWS) + 1e-5)
    error = 1.2 * spread / math.sqrt(2 * DRAWS)
    assert float(found.std()) == pytest.approx(spread, abs=5 * error + 1e-5)


def test_nothing_has_drifted_at_time_zero() -> None:
    conductance = torch.rand(100)
    assert power_law(conductance, torch.full((100,), 0.05), 0.0, 20.0).equal(conductance)
    assert logarithmic(conductance, -0.089, 0.41, 0.042, normal()[:100], 0.0).equal(conductance)


@pytest.mark.parametrize("time", [-1.0, math.inf, math.nan])
def test_impossible_times_are_named(time: float) -> None:
    with pytest.raises(ValueError, match=r"time is .* at least 0 s"):
        power_law(torch.ones(1), torch.ones(1), time, 20.0)
    with pytest.raises(ValueError, match=r"time is .* at least 0 s"):
        logarithmic(torch.ones(1), -0.089, 0.41, 0.042, torch.ones(1), time)


def test_a_reference_time_of_zero_is_named() -> None:
    with pytest.raises(ValueError, match="t0 is 0 s; it must be above 0"):
        power_law(torch.ones(1), torch.ones(1), 1.0, 0.0)


@pytest.mark.parametrize("time", [1.0, 3600.0, 86400.0])
def test_logarithmic_drift(time: float) -> None:
    found = logarithmic(torch.full((DRAWS,), 50.0), -0.0890, 0.4118, 0.0420, normal(), time)

    spread = 0.4118 + 0.0420 * math.log(time)
    error = spread / math.sqrt(DRAWS)
    assert float(found.mean()) == pytest.approx(50 - 0.0890 * math.log(time), abs=5 * error)
    assert float(found.std()) == pytest.approx(spread, abs=5 * error / math.sqrt(2))


@pytest.mark.parametrize("time", [20.0, 86420.0, YEAR])
def test_one_over_f(time: float) -> None:
    ratio = one_over_f_ratio(time, 250e-9)
    found = one_over_f(torch.full((DRAWS,), 10.0), torch.full((DRAWS,), 0.0138), ratio, normal())

    assert ratio == pytest.approx(math.sqrt(math.log((time + 250e-9) / 500e-9)))
    error = 10 * 0.0138 * ratio / math.sqrt(DRAWS)
    assert float(found.mean()) == pytest.approx(10, abs=5 * error)
    assert float(found.std()) == pytest.approx(10 * 0.0138 * ratio, abs=5 * error / math.sqrt(2))


def test_the_first_reading_has_no_one_over_f_noise_and_none_comes_before() -> None:
    assert one_over_f_ratio(250e-9, 250e-9) == 0
    with pytest.raises(ValueError, match=r"time since programming is 1e-07 s; .* at least 2.5e-07"):
        one_over_f_ratio(1e-7, 250e-9)


def test_exponents_are_not_negative() -> None:
    nu = drift_exponents(torch.tensor([0.01]), torch.tensor([0.05]), torch.tensor([-1.0]))
    assert_close(nu, torch.tensor([0.04]))
