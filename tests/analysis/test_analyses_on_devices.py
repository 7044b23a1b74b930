"""The analyses on targets whose noise has no single level: device models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, evaluate
from analogize.analyze import (
    assign,
    bias_variance,
    compare,
    mismatch,
    mutual_information,
    sensitivity,
)

DEVICES = ["pcm_joshi2020", "reram_wan2022"]
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)]
    model = nn.Sequential(*layers)
    x = torch.randn(300, 8)
    y = x[:, :4].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), [(x[:150], y[:150]), (x[150:], y[150:])]


@pytest.mark.parametrize("target", DEVICES)
def test_every_analysis_works_at_the_targets_own_noise(trained, target: str) -> None:
    model, data = trained
    analog = analogize(model, target, data)
    loss = bias_variance(analog, data, instances=6).rows[0]
    assert loss.eta is None
    assert loss.variance.value > 2 * loss.variance.chips > 0
    assert loss.mse.value == pytest.approx(loss.variance.value + loss.bias.value)
    told = mutual_information(analog, data, samples=50, instances=10)
    assert 0 < told.rows[0].corrected.value <= told.reference["corrected"] + 0.1
    costs = sensitivity(analog, data, F.cross_entropy, instances=4, progress=False)
    assert [row.name for row in costs.rows] == ["0", "2", "4"]
    assert all(row.estimate > 0 for row in costs.rows)
    kept = assign(model, data, target, 0.2, calibration=data, instances=8)
    assert kept.bound <= 0.2
    assert f"extends: {target}" in kept.fragment


@pytest.mark.parametrize("target", DEVICES)
def test_a_level_is_a_factor_on_the_devices_noise(trained, target: str) -> None:
    model, data = trained
    analog = analogize(model, target, data)

    none, own = (
        evaluate(analog, data, eta=eta, instances=3, progress=False).levels
        for eta in ([0, 1], [None])
    )
    assert none[0].deterministic
    assert none[1].values == own[0].values
    result = bias_variance(analog, data, eta=[0.0, 1.0], instances=4)
    assert result.rows[0].variance.value == 0
    assert result.rows[1].variance.value > 0


def numbers(model: nn.Module, analog: nn.Module, data: Batches, target: str) -> list[object]:
    """What every analysis comes to, by one seed."""
    costs = sensitivity(analog, data, F.cross_entropy, instances=3, seed=1, progress=False)
    loss = bias_variance(analog, data, instances=3, seed=1).rows[0]
    told = mutual_information(analog, data, samples=40, instances=6, seed=1).rows[0]
    found = mismatch({0.0: analog}, data, [0.5], F.cross_entropy, 3, seed=1, progress=False)
    pairs = compare(
        analog,
        analogize(model, target, data),
        data,
        F.cross_entropy,
        instances=3,
        seed=1,
        progress=False,
    )
    kept = assign(model, data, target, 0.2, calibration=data, instances=6, seed=1)
    curve = found.evaluations.values()
    return [
        *((row.name, row.cost, row.estimate) for row in costs.rows),
        (loss.variance.value, loss.bias.value),
        (told.binned.value, told.neighbours.value),
        *(level.values for each in curve for level in each.levels),
        *(each.mean for each in pairs.differences),
        (kept.fragment, kept.bound),
    ]


@pytest.mark.parametrize("target", [*DEVICES, "pcm_8bit"])
def test_a_seed_decides_it_whatever_else_was_drawn(trained, target: str) -> None:
    model, data = trained
    analog = analogize(model, target, data)
    found = []
    for other in (1, 2):
        torch.manual_seed(other)
        before = torch.get_rng_state()
        found.append(numbers(model, analog, data, target))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
