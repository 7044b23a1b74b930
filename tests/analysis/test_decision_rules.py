"""Decision rules keep their promises over many simulated runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from analogize import analogize
from analogize.analysis.assignment_search import upper_bound
from analogize.analyze import compare
from analogize.evaluation.intervals import stein_count, stein_interval
from analogize.targets.spec import FixedSNRNoise, Target

RUNS = 1000


def mean_output(outputs, targets):
    return outputs.mean()


def test_a_true_null_is_rejected_as_often_as_stated() -> None:
    """Two models that differ by noise of mean zero: the paired test's size is its level."""
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    target = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.5),))

    def silent() -> nn.Module:
        layer = nn.Sequential(nn.Linear(3, 2))
        # The mean over both outputs sums the noise of all weights: normal, with mean zero.
        return analogize(layer.eval(), target, example_inputs=x)

    a, b = silent(), silent()
    with torch.no_grad():  # equal without noise, so that no difference is the truth
        clean = [float(m.get_parameter("0.weight").mean(0) @ x.mean(0)) for m in (a, b)]
        biases = [float(m.get_parameter("0.bias").mean()) for m in (a, b)]
        b.get_parameter("0.bias").add_(clean[0] + biases[0] - clean[1] - biases[1])
        # Noise that scales with the weights differs from model to model, but not its mean.
        b.get_parameter("0.weight")[0, 0].add_(1.0)
        b.get_parameter("0.bias").sub_(float(x.mean(0)[0]) / 2)
    data, rejected = [(x, torch.zeros(4))], 0
    for seed in range(300):
        found = compare(a, b, data, mean_output, None, 5, seed, progress=False).differences[0]
        assert found.p_value is not None
        rejected += found.p_value < 0.05
        # Interval and test say the same.
        assert (found.p_value < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
    # 5 % of 300 with a standard deviation of 1.3 %; three of them.
    assert 0.012 <= rejected / 300 <= 0.088


@pytest.mark.parametrize("pilot", [5, 20])
def test_the_stopping_rule_covers_where_looking_every_time_would_not(pilot: int) -> None:
    generator = np.random.default_rng(1)
    draws = generator.normal(0.0, 1.0, (RUNS, 400))
    quantile = [0.0, 0.0, *stats.t.ppf(0.975, np.arange(1, 400))]
    covered = looked = 0
    for values in draws:
        precision = 0.3
        count = min(stein_count(values[:pilot].tolist(), precision), 400)
        low, high = stein_interval(values[:count].tolist(), pilot)
        covered += low <= 0 <= high
        n = pilot
        while quantile[n] * values[:n].std(ddof=1) / n**0.5 > precision and n < 400:
            n += 1
        looked += abs(values[:n].mean()) <= precision
    assert 0.93 <= covered / RUNS <= 0.97
    if pilot == 5:  # why the rule is not "until the t-interval is narrow"
        assert looked < covered


def test_the_bound_of_an_assignment_errs_as_rarely_as_stated() -> None:
    generator = np.random.default_rng(2)
    wrong = sum(
        upper_bound(torch.from_numpy(generator.normal(0.01, 0.02, (10, 1))), 0.05) < 0.01
        for _ in range(RUNS)
    )
    assert 0.03 <= wrong / RUNS <= 0.07
