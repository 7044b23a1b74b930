"""Assignments meet their budget on chips they have not seen."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analogize import analogize, evaluate, regions
from analogize.analyze import assign
from analogize.assignment import _subsets, _upper_bound, digital_regions
from analogize.errors import EvaluationError
from analogize.targets.spec import FixedSNRNoise, Target

LOUD = Target(name="loud", noise=(FixedSNRNoise(ratio=0.8),))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    sizes = (8, 32, 32, 16, 4)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(500, 8)
    y = x[:, :4].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), [(x, y)]


@pytest.mark.parametrize("exhaustive", [True, False])
def test_the_budget_holds_on_fresh_chips(trained, exhaustive, monkeypatch, tmp_path: Path) -> None:
    model, data = trained
    if not exhaustive:
        monkeypatch.setattr("analogize.assignment._EXHAUSTIVE", 0)
    found = assign(model, data, LOUD, max_drop=0.1, instances=20)
    assert found.optimal == exhaustive
    assert found.bound <= 0.1
    assert 0 < found.digital_macs < found.total_macs
    file = tmp_path / "assigned.yaml"
    file.write_text(found.fragment)
    analog = analogize(model, file, example_inputs=data[0][0])
    assert {r.name for r in regions(analog)} == {"0", "2", "4", "6"} - set(found.digital)
    fresh = evaluate(analog, data, instances=60, seed=12345, progress=False).levels[0]
    assert fresh.mean is not None
    assert fresh.std is not None
    # The bound is for the mean over all chips; 60 of them know it to four standard errors.
    assert found.baseline - fresh.mean <= 0.1 + 4 * fresh.std / 60**0.5


def test_nothing_stays_digital_where_nothing_is_lost(trained) -> None:
    model, data = trained
    quiet = Target(name="quiet", noise=(FixedSNRNoise(ratio=1e-4),))
    found = assign(model, data, quiet, instances=3)
    assert (found.digital, found.digital_macs, found.tested) == ((), 0, 1)


def test_a_built_in_target_is_extended(trained, tmp_path: Path) -> None:
    model, data = trained
    found = assign(model, data, "pcm_8bit", max_drop=0.5, calibration=data, instances=3)
    assert "extends: pcm_8bit" in found.fragment
    (tmp_path / "t.yaml").write_text(found.fragment)
    analogize(model, tmp_path / "t.yaml", example_inputs=data[0][0])


def test_digital_regions_are_the_rewriting_without_them(trained) -> None:
    model, data = trained
    x = data[0][0]
    kept = analogize(model, LOUD, example_inputs=x, digital=["2", "6"])
    whole = analogize(model, LOUD, example_inputs=x)
    with digital_regions(whole, ["2", "6"]):
        a = evaluate(whole, data, instances=3, progress=False).levels[0].values
    assert a == evaluate(kept, data, instances=3, progress=False).levels[0].values


def test_subsets_come_by_their_work() -> None:
    found = _subsets({"a": 5, "b": 1, "c": 3})
    assert found[:4] == [(), ("b",), ("c",), ("b", "c")]
    assert found[-1] == ("a", "b", "c")


def test_upper_bound_is_students() -> None:
    # t(0.95, 2 degrees of freedom) = 2.920, mean 2, standard error 1 / sqrt(3).
    assert _upper_bound([1, 2, 3], 0.05) == pytest.approx(2 + 2.920 / 3**0.5, abs=1e-3)


@pytest.mark.parametrize("wrong", [{"max_drop": 0}, {"confidence": 1}, {"instances": 1}])
def test_arguments_are_refused(trained, wrong) -> None:
    with pytest.raises(EvaluationError, match="must lie between"):
        assign(*trained, LOUD, **wrong)
