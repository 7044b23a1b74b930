"""The bias-variance decomposition against closed forms and against its definition."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from analogize import analogize, noise_level, program
from analogize.analysis.chip_outputs import identity
from analogize.analyze import Decomposition, bias_variance
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.model.module import AnalogModule
from analogize.targets.spec import FixedSNRNoise, Target

TARGET = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.5),))


def rewritten(*layers: nn.Module, inputs: int = 6) -> AnalogModule:
    return analogize(nn.Sequential(*layers).eval(), TARGET, example_inputs=torch.randn(2, inputs))


@pytest.fixture
def classes() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(20, 6), torch.randint(0, 3, (20,))) for _ in range(3)]


def test_terms_follow_their_definitions_and_add_up(classes) -> None:
    torch.manual_seed(1)
    model = rewritten(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    n = 7
    row = bias_variance(model, classes, eta=0.4, instances=n).rows[0]
    x, y = (torch.cat(part) for part in zip(*classes, strict=True))
    wanted = nn.functional.one_hot(y, 3)
    outputs = []
    with noise_level(model, 0.4), torch.no_grad():
        for k in range(n):
            program(model, chip_seed(0, k))
            outputs.append(model(x).softmax(1))
    f = torch.stack(outputs).double()
    mean = f.mean(0)
    variance = (f - mean).square().mean()  # equation 3 as printed
    bias = (mean - wanted).square().mean()  # equation 4 as printed
    # Float32 outputs of order 1, averaged: a few times 2^-24.
    assert row.variance.value == pytest.approx(float(variance) * n / (n - 1), abs=1e-6)
    assert row.bias.value == pytest.approx(float(bias - variance / (n - 1)), abs=1e-6)
    assert row.mse.value == pytest.approx(float((f - wanted).square().mean()), abs=1e-6)
    assert row.variance.value + row.bias.value == pytest.approx(row.mse.value, rel=1e-12)
    assert row.accuracies == pytest.approx(
        [float((o.argmax(1) == y).double().mean()) for o in outputs]
    )


def test_linear_model_has_the_pretrained_bias_and_the_closed_form_variance() -> None:
    torch.manual_seed(2)
    model = rewritten(nn.Linear(6, 4))
    x, y = torch.randn(50, 6), torch.randn(50, 4)
    row = bias_variance(model, [(x, y)], eta=0.7, instances=400, output=identity).rows[0]
    weight = model.get_parameter("0.weight").detach()
    # Each output is a sum of |x|^2 independent weight errors of variance (0.7 sigma_W)^2.
    variance = (0.7 * weight.std(correction=0)).square() * x.square().sum(1).mean()
    # Four standard errors: once in 16,000 by chance, and the seed is fixed.
    assert abs(row.variance.value - float(variance)) < 4 * row.variance.chips
    assert abs(row.bias.value - row.pretrained.value) < 4 * row.bias.chips
    assert row.variance.chips < 0.1 * row.variance.value


def test_bias_is_unbiased_for_few_chips_and_errors_are_honest() -> None:
    torch.manual_seed(3)
    model = rewritten(nn.Linear(6, 4))
    data = [(torch.randn(10, 6), torch.zeros(10, 4))]
    runs = [
        bias_variance(model, data, eta=1.0, instances=8, output=identity, seed=s).rows[0]
        for s in range(150)
    ]
    found = torch.tensor([r.bias.value for r in runs], dtype=torch.float64)
    error = float(found.std()) / math.sqrt(len(runs))
    assert abs(float(found.mean()) - runs[0].pretrained.value) < 4 * error
    # As printed, equation 4 would be off by l_var / 8, which this test could not miss.
    assert runs[0].variance.value / 8 > 4 * error
    claimed = torch.tensor([r.bias.chips for r in runs]).square().mean().sqrt()
    # 150 runs know a standard deviation to 6 %; the jackknife of 8 chips errs upwards.
    assert 0.8 < float(claimed) / float(found.std()) < 1.5


def test_without_noise_there_is_no_variance(classes) -> None:
    result = bias_variance(rewritten(nn.Linear(6, 3)), classes, eta=[0, 0.1], instances=3)
    silent = result.rows[0]
    assert silent.variance.value == pytest.approx(0, abs=1e-12)
    assert silent.bias.value == pytest.approx(silent.pretrained.value, rel=1e-9)
    assert result.samples == 60


def test_parts_of_the_data_add_up(classes, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    model = rewritten(nn.Linear(6, 3))
    whole = bias_variance(model, classes, eta=0.5, instances=4)
    monkeypatch.setattr("analogize.analysis.chip_outputs._CAPACITY", 1)
    parts = bias_variance(model, classes, eta=0.5, instances=4)
    for a, b in zip(whole.to_rows()[0].values(), parts.to_rows()[0].values(), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def test_crossover_interpolates_and_results_survive_a_file(classes, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = rewritten(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    result = bias_variance(model, classes, eta=[0, 1, 8], instances=10, output=identity)
    assert result.rows[0].variance.value < result.rows[0].bias.value
    assert result.rows[2].variance.value > result.rows[2].bias.value
    crossover = result.crossover()
    assert crossover is not None
    assert 0 < crossover < 8
    result.save(tmp_path / "r.json")
    assert Decomposition.load(tmp_path / "r.json") == result
    result.plot().savefig(tmp_path / "r.png")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(EvaluationError, match="no Decomposition"):
        Decomposition.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": 2}, "at least 3"),
        ({"eta": []}, "eta is empty"),
        ({"output": lambda y: y / 0}, "NaN or infinite"),
    ],
)
def test_arguments_are_refused_by_name(classes, arguments, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        bias_variance(rewritten(nn.Linear(6, 3)), classes, **arguments)


def test_targets_must_fit(classes) -> None:
    model = rewritten(nn.Linear(6, 3))
    with pytest.raises(EvaluationError, match="0 to 2"):
        bias_variance(model, [(torch.zeros(2, 6), torch.tensor([0, 3]))], instances=3)
    with pytest.raises(EvaluationError, match="cannot be compared"):
        bias_variance(model, [(torch.zeros(2, 6), torch.zeros(2, 5))], instances=3)
