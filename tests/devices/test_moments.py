"""First two moments of every device model at several conductances and times, on differential pairs.

Everything goes through ``simulate``, as in a model. Pairs lie between g_min = 5 and g_max = 25 uS,
an on/off ratio of 5 and far from the cut-off at 0, so that a weight of w has devices at
5 + 20 |w| and 5 uS and w' = (G+ - G-) / 20. Tolerances are five standard errors: of the mean
std / sqrt(n), of the standard deviation std sqrt((kurtosis - 1) / 4 n).
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.cells import Reading, simulate
from analogize.devices.random import Draws
from analogize.targets.conductance import Conductance
from analogize.targets.noise import NoiseModel
from analogize.targets.spec import Target

DRAWS = 40_000
LOW, HIGH = 5.0, 25.0
DAY, YEAR = 86400.0, 365 * 86400.0
PARSE: TypeAdapter[NoiseModel] = TypeAdapter(NoiseModel)

Moments = Callable[[float, float], tuple[float, float]]
"""(mean, variance) of one device asked to hold a conductance, at a time, in uS."""


def polynomial(*coefficients: float) -> dict[str, Any]:
    return {"kind": "polynomial", "coefficients": coefficients}


def relaxed(g: float, time: float) -> tuple[float, float]:
    """0.2 + 0.01 G at 1 s and twice that at a day; linear in ln(1 + t) between."""
    log = [math.log1p(max(1.0, t)) for t in (1.0, time, DAY)]
    share = (log[1] - log[0]) / (log[2] - log[0])
    return g, ((0.2 + 0.01 * g) * (1 + share)) ** 2


def drifted(g: float, time: float) -> tuple[float, float]:
    """exp(-nu L) of nu ~ N(0.1 - 0.002 G, 0.01 + 0.0002 G) is log-normal."""
    log = math.log1p(time / 20.0)
    mean, std = (0.1 - 0.002 * g) * log, (0.01 + 0.0002 * g) * log
    expected = g * math.exp(-mean + std**2 / 2)
    return expected, expected**2 * math.expm1(std**2)


def log_drifted(g: float, time: float) -> tuple[float, float]:
    if time < 1:
        return g, 0.0
    return g - 0.05 * math.log(time), (0.1 + 0.02 * math.log(time)) ** 2


def read(g: float, time: float) -> tuple[float, float]:
    ratio = math.sqrt(math.log((20.0 + time + 1e-6) / 2e-6))
    return g, (g * min(0.02 / g**0.5, 0.2) * ratio) ** 2


def stuck(g: float, time: float) -> tuple[float, float]:
    mean = 0.1 * LOW + 0.2 * HIGH + 0.7 * g
    return mean, 0.1 * LOW**2 + 0.2 * HIGH**2 + 0.7 * g**2 - mean**2


CASES: list[tuple[dict[str, Any], Moments]] = [
    (
        {"model": "programming", "sigma": polynomial(0.3, 0.05, -0.001)},
        lambda g, _: (g, (0.3 + 0.05 * g - 0.001 * g**2) ** 2),
    ),
    (
        {
            "model": "relaxation",
            "points": [
                {"time": 1.0, "sigma": polynomial(0.2, 0.01)},
                {"time": DAY, "sigma": polynomial(0.4, 0.02)},
            ],
        },
        relaxed,
    ),
    (
        {
            "model": "drift",
            "t0": 20.0,
            "nu_mean": polynomial(0.1, -0.002),
            "nu_std": polynomial(0.01, 0.0002),
        },
        drifted,
    ),
    (
        {"model": "log_drift", "mean_slope": -0.05, "std_intercept": 0.1, "std_slope": 0.02},
        log_drifted,
    ),
    (
        {
            "model": "one_over_f",
            "q": {"kind": "power", "coefficient": 0.02, "exponent": 0.5, "max": 0.2},
            "t_read": 1e-6,
            "t0": 20.0,
        },
        read,
    ),
    (
        {"model": "variation", "source": "device", "std": 0.1},
        lambda g, _: (g, (0.1 * g) ** 2),
    ),
    (
        {"model": "variation", "source": "cycle", "distribution": "lognormal", "std": 0.2},
        lambda g, _: (g, g**2 * math.expm1(0.04)),
    ),
    ({"model": "stuck", "at_min": 0.1, "at_max": 0.2}, stuck),
]


def found(model: dict[str, Any], weight: float, time: float, pairs: int = 1) -> Tensor:
    mapping = Conductance(g_min=LOW, g_max=HIGH, pairs=pairs)
    weights = torch.full((DRAWS,), weight, dtype=torch.float64)
    reading = Reading(Draws("moments"), time)
    return simulate(weights, 1.0, mapping, (PARSE.validate_python(model),), reading)


def check(values: Tensor, mean: float, std: float) -> None:
    measured = float(values.std())
    assert float(values.mean()) == pytest.approx(mean, abs=5 * std / DRAWS**0.5 + 1e-12)
    normed = (values - values.mean()) / max(measured, 1e-12)
    kurtosis = max(float((normed**4).mean()), 1.0)
    error = std * math.sqrt((kurtosis - 1) / (4 * DRAWS))
    assert measured == pytest.approx(std, abs=5 * error + 1e-9)


@pytest.mark.parametrize("time", [0.0, 1.0, 3600.0, DAY])
@pytest.mark.parametrize("weight", [0.0, 0.25, -0.5, 1.0])
@pytest.mark.parametrize(("model", "moments"), CASES, ids=[case[0]["model"] for case in CASES])
def test_moments(model: dict[str, Any], moments: Moments, weight: float, time: float) -> None:
    on, off = moments(LOW + (HIGH - LOW) * abs(weight), time), moments(LOW, time)
    mean = math.copysign((on[0] - off[0]) / (HIGH - LOW), weight)
    check(found(model, weight, time), mean, math.sqrt(on[1] + off[1]) / (HIGH - LOW))


@pytest.mark.parametrize(("model", "moments"), CASES, ids=[case[0]["model"] for case in CASES])
def test_three_pairs_have_a_third_of_the_variance(model: dict[str, Any], moments: Moments) -> None:
    on, off = moments(15.0, DAY), moments(LOW, DAY)
    mean, std = (on[0] - off[0]) / 20, math.sqrt((on[1] + off[1]) / 3) / 20
    check(found(model, 0.5, DAY, pairs=3), mean, std)


@pytest.mark.parametrize("index", [2, 4])
def test_laws_without_an_end_hold_for_a_year(index: int) -> None:
    model, moments = CASES[index]
    on, off = moments(HIGH, YEAR), moments(LOW, YEAR)
    check(found(model, 1.0, YEAR), (on[0] - off[0]) / 20, math.sqrt(on[1] + off[1]) / 20)


def on_devices(noise: dict[str, Any], **more: Any) -> Target:
    given = {
        "name": "moments",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_min": LOW, "g_max": HIGH},
        "noise": [noise],
    }
    return Target.model_validate(given | more)


@pytest.mark.parametrize("distribution", ["gaussian", "lognormal"])
def test_variation_from_device_to_device_stays_and_from_cycle_to_cycle_does_not(
    distribution: str,
) -> None:
    chips = {}
    for source in ("device", "cycle"):
        noise = {"model": "variation", "source": source, "distribution": distribution, "std": 0.1}
        analog = analogize(nn.Linear(100, 100, bias=False), on_devices(noise))
        for cycle in (0, 1):
            program(analog, 7, cycle=cycle)
            (op,) = operators(analog)
            assert op.array.chip is not None
            chips[source, cycle] = op.array.chip - analog.get_parameter("weight").detach()

    assert chips["device", 0].equal(chips["device", 1])
    both = torch.stack([chips["cycle", 0].flatten(), chips["cycle", 1].flatten()])
    # 10 000 independent draws correlate by 0.01.
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05


@pytest.mark.parametrize("rule", ["global", "column"])
def test_compensation_restores_the_sums_that_it_compares(rule: Any) -> None:
    """With exponents of their own, devices scatter; the summed outputs are those of time 0."""
    layer = nn.Linear(200, 30, bias=False)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.1, 1, 30).unsqueeze(1))
    analog = analogize(layer, on_devices(CASES[2][0])).eval()
    (op,) = operators(analog)
    sums, spread = [], []
    for time in ("0 s", "1 year"):
        program(analog, 0, drift_time=time, compensation=rule)
        chip, factor = op.array.chip, op.array.correction
        assert chip is not None
        columns = chip.abs().sum(1) * (1.0 if factor is None else factor)
        sums.append(columns if rule == "column" else columns.sum())
        spread.append(float((chip * (1.0 if factor is None else factor.mean())).std()))

    assert torch.allclose(sums[0], sums[1], rtol=1e-4)
    # Large conductances drift less here, (1.6e6)^-0.05 against (1.6e6)^-0.09: they gain.
    assert spread[1] > spread[0]
