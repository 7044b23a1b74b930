"""Intervals cover what they promise, with a fixed number of chips and to a precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analogize import analogize, evaluate
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.intervals import stein_count, stein_interval, t_interval
from analogize.targets.spec import FixedSNRNoise, Target

RUNS = 1000


def mean_output(outputs, targets):
    return outputs.mean()


@pytest.fixture
def linear():
    """A model whose metric is normal over chips, around the noiseless value."""
    torch.manual_seed(0)
    target = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.5),))
    x = torch.randn(4, 3)
    model = analogize(nn.Sequential(nn.Linear(3, 2)).eval(), target, example_inputs=x)
    return model, [(x, torch.zeros(4))]


def measured(model, data, **settings) -> Evaluation:
    return evaluate(model, data, mean_output, progress=False, **settings)


def test_intervals_of_a_thousand_evaluations_cover_the_truth(linear) -> None:
    model, data = linear
    truth = measured(model, data, eta=0.0, instances=1).levels[0].values[0]
    covered = 0
    for seed in range(RUNS):
        low, high = measured(model, data, instances=5, seed=seed).levels[0].interval or (0, 0)
        covered += low <= truth <= high
    # 95 % of 1,000 with a standard deviation of 0.7 %.
    assert 0.93 <= covered / RUNS <= 0.97


def test_intervals_to_a_precision_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered, counts, met = 0, [], 0
    for _ in range(RUNS):
        draws = generator.normal(3.0, 1.0, 400).tolist()
        count = stein_count(draws[:10], 0.4)
        counts.append(count)
        low, high = stein_interval(draws[:count], 10)
        covered += low <= 3.0 <= high
        met += abs(np.mean(draws[:count]) - 3.0) <= 0.4
        assert (high - low) / 2 <= 0.4 + 1e-12
    assert 0.93 <= covered / RUNS <= 0.97
    assert met / RUNS >= 0.93  # the precision itself is met as often, by Stein's theorem
    # t(9)^2 s^2 / d^2 = 32 on average.
    assert 28 < np.mean(counts) < 36


def test_evaluate_draws_what_the_pilot_asks_for(linear) -> None:
    model, data = linear
    result = measured(model, data, eta=[0.0, 0.1, 0.5], instances=10, precision=0.1)
    silent, quiet, loud = result.levels
    assert silent.deterministic
    assert len(loud.values) == stein_count(loud.values[:10], 0.1) > len(quiet.values) >= 10
    assert result.complete
    assert result.seeds == tuple(chip_seed(0, k) for k in range(len(loud.values)))
    low, high = loud.interval or (0, 1)
    assert (high - low) / 2 <= 0.1
    counted = measured(model, data, eta=0.5, instances=len(loud.values)).levels[0]
    assert counted.values == loud.values


def test_a_run_to_a_precision_goes_on(linear, tmp_path: Path) -> None:
    model, data = linear
    file = tmp_path / "run.json"
    whole = measured(model, data, instances=10, precision=0.1)
    measured(model, data, instances=10, resume=file)
    assert measured(model, data, instances=10, precision=0.1, resume=file) == whole
    coarse = measured(model, data, instances=10, precision=0.3, resume=file)
    assert coarse == measured(model, data, instances=10, precision=0.3)
    assert Evaluation.load(file) == coarse


@pytest.mark.parametrize(
    ("wrong", "message"), [({"precision": 0}, "above 0"), ({"instances": 1}, "pilot")]
)
def test_arguments_are_refused(linear, wrong, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        measured(*linear, **({"precision": 0.1, "instances": 5} | wrong))


def test_a_precision_out_of_reach_is_refused_after_the_pilot(linear, tmp_path: Path) -> None:
    model, data = linear
    file = tmp_path / "run.json"
    for precision in (1e-9, 1e-200):
        with pytest.raises(EvaluationError, match=r"takes .* chips by .* first 5, more than max_i"):
            measured(model, data, instances=5, precision=precision, resume=file)
        assert len(Evaluation.load(file).levels[0].values) == 5
    spread = Evaluation.load(file).levels[0].std
    assert spread is not None
    with pytest.raises(EvaluationError, match="max_instances = 7: raise max_instances"):
        measured(model, data, instances=5, precision=spread / 2, max_instances=7, resume=file)
    # What the message calls reachable is: at the very limit rounding may ask for one chip more.
    reachable = measured(model, data, instances=5, precision=spread, max_instances=50, resume=file)
    assert 5 <= len(reachable.levels[0].values) <= 50


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_a_limit_that_is_none(linear, most) -> None:
    with pytest.raises(EvaluationError, match="max_instances is"):
        measured(*linear, max_instances=most)


def test_intervals_take_the_quantile_of_their_own_degrees_of_freedom() -> None:
    """Student's t at 97.5 % from its table: 12.706 for 1 degree of freedom, 4.303 for 2."""
    for values, quantile in (((1.0, 3.0), 12.7062), ((1.0, 3.0, 5.0), 4.30265)):
        half = quantile * float(np.std(values, ddof=1))
        low, high = stein_interval(values, len(values))
        assert (high - low) / 2 == pytest.approx(half / len(values) ** 0.5, rel=1e-5)
        assert t_interval(values) == pytest.approx((low, high))
        assert stein_count(values, half / 10.001) == 101
        assert stein_count(values, half / 9.999) == 100
    assert t_interval((1.0,)) is None
