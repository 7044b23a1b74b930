"""Chips in one batched pass against the same chips one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, evaluate, noise_level, program
from analogize.crossbar.ops import operators
from analogize.demo.models import DigitsNet
from analogize.errors import ChipError, EvaluationError
from analogize.evaluation.many_chips import program_many, run_many
from analogize.targets.spec import FixedSNRNoise, Target

SEEDS = [3, 1, 4, 15]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, groups=1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.depthwise(self.conv(x)))).mean(3).flatten(1)
        y: Tensor = self.b(F.relu(self.a(x)))
        return y


def one_by_one(model: nn.Module, x: Tensor) -> Tensor:
    found = []
    for seed in SEEDS:
        program(model, seed)
        with torch.no_grad():
            found.append(model(x))
    return torch.stack(found)


@pytest.mark.parametrize(("network", "size"), [(DigitsNet, 8), (Tied, 8)])
def test_without_converters_equal_to_float_rounding(network, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, size, size)
    target = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.3),))
    model = analogize(network().eval(), target, example_inputs=x)
    found = run_many(model, x, program_many(model, SEEDS))
    expected = one_by_one(model, x)
    assert found.shape == expected.shape
    # Sums of at most 512 products in another order, four layers deep: 4 sqrt(512) 2^-24 = 5e-6.
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def test_integer_codes_are_equal_to_the_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 8, 8)
    model = analogize(DigitsNet().eval(), "pcm_4bit", [x])
    with noise_level(model, 0.0):  # sums of integers below 2^24 are exact in any order
        found = run_many(model, x, program_many(model, SEEDS))
        assert torch.equal(found, one_by_one(model, x))


def test_with_converters_equal_but_for_steps_of_the_adc() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 8, 8)
    model = analogize(nn.Sequential(nn.Conv2d(1, 4, 3)).eval(), "pcm_4bit", [x])
    found, expected = run_many(model, x, program_many(model, SEEDS)), one_by_one(model, x)
    step = operators(model)[0].adc.scale
    assert step is not None
    difference = (found - expected).abs()
    assert float(difference.max()) <= 1.001 * float(step)
    # An edge lies within rounding (1e-6 of a step) of a sum about once in a million.
    assert int((difference > 0.5 * step).sum()) <= 1


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    model = analogize(DigitsNet(), "pcm_4bit", [x])
    before = copy.deepcopy(model.state_dict())
    run_many(model, x, program_many(model, SEEDS))
    assert model.training
    assert all(op.array.chip is None and op.mode is None for op in operators(model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_misuse_is_refused() -> None:
    x = torch.randn(2, 1, 8, 8)
    model, other = analogize(DigitsNet(), "pcm_4bit", [x]), analogize(Tied(), "pcm_4bit", [x])
    with pytest.raises(ChipError, match="at least one seed"):
        program_many(model, [])
    with pytest.raises(ChipError, match="another model"):
        run_many(model, x, program_many(other, [1]))
    with pytest.raises(ChipError, match="no analog operator"):
        program_many(nn.Linear(2, 2), [1])


@pytest.fixture
def digits() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 1, 8, 8), torch.randint(0, 10, (n,))) for n in (9, 9, 4)]


@pytest.mark.parametrize("at_once", [2, 4, 16])
def test_evaluate_in_groups_equals_one_by_one(digits, at_once: int) -> None:
    model = analogize(DigitsNet(), "pcm_4bit", digits)
    settings = {"eta": [0.0, 0.1], "instances": 7, "progress": False}
    alone = evaluate(model, digits, F.cross_entropy, **settings)
    grouped = evaluate(model, digits, F.cross_entropy, **settings, at_once=at_once)
    assert (grouped.seeds, grouped.samples) == (alone.seeds, alone.samples)
    assert grouped.levels[0] == alone.levels[0]  # one chip stands for all
    # Losses of order 2 from sums in another order; no sum falls on an ADC's edge at this seed.
    assert grouped.levels[1].values == pytest.approx(alone.levels[1].values, rel=1e-4)
    assert model.training
    assert all(op.array.chip is None for op in operators(model))


def test_groups_end_where_a_precision_is_met_and_resume(digits, tmp_path) -> None:
    model = analogize(DigitsNet(), "pcm_4bit", digits)
    settings = {"eta": 0.1, "instances": 5, "progress": False}
    whole = evaluate(model, digits, **settings, precision=0.05)
    assert evaluate(model, digits, **settings, precision=0.05, at_once=4) == whole
    evaluate(model, digits, **settings, resume=tmp_path / "r.json")
    more = {"at_once": 3, "precision": 0.05, "resume": tmp_path / "r.json"}
    assert evaluate(model, digits, **settings, **more) == whole


class Dreaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(F.dropout(x.flatten(1), 0.5, training=True))
        return y


def test_what_a_batch_would_draw_otherwise_is_refused(digits) -> None:
    target = Target(name="t", noise=(FixedSNRNoise(ratio=0.1),))
    model = analogize(Dreaming(), target, example_inputs=digits[0][0])
    with pytest.raises(EvaluationError, match=r"draws random numbers.*at_once=1.*chips 0 to 2"):
        evaluate(model, digits, instances=3, at_once=3, progress=False)
    with pytest.raises(EvaluationError, match="at_once is 0"):
        evaluate(model, digits, at_once=0)


def test_a_chip_that_has_drifted_keeps_its_correction(digits) -> None:
    model = analogize(DigitsNet(), "pcm_joshi2020", digits).eval()
    program(model, 1, drift_time="1 day")
    before = model(digits[0][0])
    evaluate(model, digits, instances=2, progress=False)
    assert torch.equal(model(digits[0][0]), before)
    evaluate(model, digits, instances=2, at_once=2, progress=False)
    assert torch.equal(model(digits[0][0]), before)
