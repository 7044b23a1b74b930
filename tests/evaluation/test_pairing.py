"""Paired comparison of two models on the same chips."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from analogize import analogize
from analogize.analyze import compare
from analogize.errors import EvaluationError
from analogize.targets.spec import FixedSNRNoise, Target

TARGET = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=0.3),))


def loss(outputs, targets):
    return (outputs - targets).square().mean()


@pytest.fixture
def pair():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3)).eval()
    shifted = copy.deepcopy(plain)
    with torch.no_grad():
        shifted[0].bias += 0.02
    x = torch.randn(32, 4)
    data = [(x, plain(x).detach())]
    a, b = (analogize(m, TARGET, example_inputs=x) for m in (plain, shifted))
    return a, b, data


def test_same_model_differs_nowhere(pair) -> None:
    a, _, data = pair
    found = compare(a, copy.deepcopy(a), data, loss, instances=5, progress=False).differences[0]
    assert found.values == (0.0,) * 5
    assert (found.mean, found.p_value) == (0.0, 1.0)


def test_pairing_sees_what_independent_chips_would_not(pair) -> None:
    a, b, data = pair
    result = compare(a, b, data, loss, eta=[0, 0.3], instances=60, progress=False)
    silent, noisy = result.differences
    assert silent.mean == pytest.approx(0.02**2, rel=1e-3)
    assert silent.p_value is None
    assert noisy.values == pytest.approx(
        [y - x for x, y in zip(result.a.levels[1].values, result.b.levels[1].values, strict=True)]
    )
    width = noisy.interval[1] - noisy.interval[0]
    ends = result.a.levels[1].interval
    assert ends is not None
    assert width < 0.5 * (ends[1] - ends[0])
    assert noisy.interval[0] < 0.02**2 < noisy.interval[1]


def test_one_chip_is_too_few(pair) -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        compare(*pair, instances=1)
