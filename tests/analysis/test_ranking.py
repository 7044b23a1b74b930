"""Sensitivity of regions: Monte Carlo, curvature, and their agreement."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analogize import analogize, noise_mode, program
from analogize.analysis.ranking import curvature_costs, only_noisy
from analogize.analyze import Sensitivity, sensitivity
from analogize.crossbar.ops import operators
from analogize.errors import EvaluationError
from analogize.targets.noise import ReadNoise
from analogize.targets.spec import (
    AbsMaxRange,
    Converter,
    FixedRange,
    FixedSNRNoise,
    GaussianNoise,
    Target,
    Weights,
)

SNR = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.1),))


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    x = torch.randn(400, 8)
    y = (x[:, :3] + 0.5 * torch.randn(400, 3)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), [(x[:200], y[:200]), (x[200:], y[200:])]


def test_curvature_is_the_gauss_newton_trace_of_softmax_regression() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(5, 3)
    x = torch.randn(2000, 5)
    model = analogize(nn.Sequential(layer).eval(), SNR, example_inputs=x[:2])
    found = curvature_costs(model, [(part, torch.zeros(len(part))) for part in x.split(5)])["0"]
    p = layer(x).softmax(1).detach()
    # The Hessian of one sample is (diag p - p p^T) x x^T, with trace (1 - p.p) |x|^2.
    trace = ((1 - p.square().sum(1)) * x.square().sum(1)).mean()
    variance = (0.1 * layer.weight.detach().std(correction=0)).square()
    # 15 noises in 8 draws: sqrt(2 / 120) = 13 %, and the labels' part is smaller; three times that.
    assert found == pytest.approx(float(0.5 * variance * trace), rel=0.4)


def test_ranks_agree_with_monte_carlo(classifier) -> None:
    model, data = classifier
    analog = analogize(model, SNR, example_inputs=data[0][0])
    result = sensitivity(
        analog, data, F.cross_entropy, 0.1, 30, lower_is_better=True, progress=False
    )
    assert [row.name for row in result.rows] == ["0", "2", "4"]
    assert result.baseline == pytest.approx(
        sum(float(F.cross_entropy(model(x), y).detach()) for x, y in data) / 2, rel=1e-5
    )
    for row in result.rows:
        assert row.interval[0] < row.cost < row.interval[1]
        # Second order at sigma = 0.1 sigma_W: the estimate must lie near the measured rise.
        assert row.estimate == pytest.approx(row.cost, rel=0.7)
    assert Sensitivity.model_validate_json(result.model_dump_json()) == result


def test_codes_and_weight_units_cost_the_same(classifier) -> None:
    model, data = classifier
    weights = Weights(range=AbsMaxRange(), bits=8)
    noise = (GaussianNoise(eta=0.05),)
    folded = Target(name="folded", weights=weights, noise=noise)
    wide = Converter(bits=16, range=FixedRange(min=-40, max=40))
    codes = Target(name="codes", weights=weights, noise=noise, dac=wide, adc=wide)
    costs = [
        curvature_costs(analogize(model, target, example_inputs=data[0][0]), data)
        for target in (folded, codes)
    ]
    # Rounding lets a few of 400 drawn labels fall otherwise; a wrong unit would be off by orders.
    assert costs[0] == pytest.approx(costs[1], rel=0.3)


def test_only_noisy_puts_the_noise_back(classifier) -> None:
    model, data = classifier
    analog = analogize(model, SNR, example_inputs=data[0][0])
    with only_noisy(analog, ["2"]):
        assert [bool(op.array.noise) for op in operators(analog)] == [False, True, False]
    assert all(op.array.noise == SNR.noise for op in operators(analog))


def test_read_noise_of_the_others_is_silent_too(classifier) -> None:
    model, data = classifier
    noise = (FixedSNRNoise(ratio=0.1), ReadNoise(additive=0.05))
    target = Target(name="read", weights=Weights(range=AbsMaxRange()), noise=noise)
    analog = analogize(model, target, example_inputs=data[0][0]).eval()
    program(analog, 1)
    seen: list[list[torch.Tensor]] = []
    for op in operators(analog):
        op.register_forward_hook(lambda _, inputs, output: seen[-1].append(output))

    def draws(names: list[str]) -> list[bool]:
        """Which regions' own products differ between two passes of one chip."""
        seen.clear()
        with torch.no_grad(), only_noisy(analog, names):
            program(analog, 1)
            for _ in range(2):
                seen.append([])
                analog(data[0][0])
        return [not torch.equal(a, b) for a, b in zip(*seen, strict=True)]

    assert draws([]) == [False, False, False]
    # What a noisy region gives on differs for the ones behind it, whose own noise is silent.
    assert draws(["4"]) == [False, False, True]
    assert draws(["2"]) == [False, True, True]
    assert draws(["0", "2", "4"]) == [True, True, True]
    with only_noisy(analog, ["2"]), noise_mode(analog, "off"), torch.no_grad():
        clean = analog(data[0][0])
    with only_noisy(analog, []), torch.no_grad():
        program(analog, 1)
        assert torch.equal(analog(data[0][0]), clean)
    program(analog, 1)
    assert draws(["0", "2", "4"])[0]  # put back afterwards


def test_silent_cells_of_sliced_weights_cost_nothing(classifier) -> None:
    model, data = classifier
    analog = analogize(model, "isaac", data)
    # The eight digits of a weight stand for the weight itself, to float32's rounding.
    costs = curvature_costs(analog, data)
    assert all(0 <= cost < 1e-6 for cost in costs.values())


def test_other_outputs_are_refused() -> None:
    model = analogize(nn.Conv1d(1, 2, 3).eval(), SNR, example_inputs=torch.randn(2, 1, 8))
    with pytest.raises(EvaluationError, match="classes"):
        curvature_costs(model, [(torch.randn(2, 1, 8), torch.zeros(2))])
