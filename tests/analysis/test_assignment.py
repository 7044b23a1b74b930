"""Assignments meet their budget on chips they have not seen."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analogize import Recalibration, analogize, evaluate, regions
from analogize.analysis.assignment_search import settled, subsets, upper_bound
from analogize.analysis.drops import Drops, digital_regions, estimated
from analogize.analyze import assign
from analogize.crossbar.ops import bypassed, operators
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.deployment import Deployment
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
        monkeypatch.setattr("analogize.analysis.assignment._EXHAUSTIVE", 0)
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
    found = subsets({"a": 5, "b": 1, "c": 3})
    assert found[:4] == [(), ("b",), ("c",), ("b", "c")]
    assert found[-1] == ("a", "b", "c")


def test_upper_bound_is_students() -> None:
    # t(0.95, 2 degrees of freedom) = 2.920, mean 2, standard error 1 / sqrt(3).
    drops = torch.tensor([[0.0, 2, 1], [3, 1, 2], [4, 2, 3]]).double()
    assert upper_bound(drops, 0.05) == pytest.approx(2 + 2.920 / 3**0.5, abs=1e-3)
    # Samples have means 7/3, 5/3 and 2, so a standard error of (1/3) / sqrt(3) more.
    both = (1 / 3 + 1 / 27) ** 0.5
    assert upper_bound(drops, 0.05, samples=True) == pytest.approx(2 + 2.920 * both, abs=1e-3)


def test_samples_that_all_drop_alike_may_have_missed_others() -> None:
    # Of 10 samples none dropped: of others 26 % may, or 10 alike would be seen once in 20 times.
    bound = upper_bound(torch.zeros(4, 10).double(), 0.05, samples=True)
    assert (1 - bound) ** 10 == pytest.approx(0.05)
    assert upper_bound(torch.zeros(4, 10).double(), 0.05) == 0
    assert upper_bound(torch.ones(4, 10).double(), 0.05, samples=True) == 1


def test_the_bound_over_samples_errs_no_more_often_than_stated() -> None:
    """Drops whose mean varies with the sample: a bound over chips alone would miss far more."""
    torch.manual_seed(0)
    wrong = alone = 0
    for _ in range(1000):
        # Chip and sample effects around a true mean of 0.
        drops = torch.randn(30, 1) * 0.1 + torch.randn(1, 200) * 1.0 + torch.randn(30, 200)
        wrong += upper_bound(drops, 0.05, samples=True) < 0
        alone += upper_bound(drops, 0.05) < 0
    assert wrong / 1000 <= 0.05 + 3 * 0.007  # the binomial's deviation is 0.7 %
    assert alone / 1000 > 0.2


@pytest.mark.parametrize(
    ("values", "early", "used"),
    [
        ([0.30, 0.31, 0.29, 0.3, 0.3], True, 3),  # clearly beyond the budget
        ([0.30, 0.31, 0.29, 0.3, 0.3], False, 3),
        ([0.00, 0.01, 0.00, 0.0, 0.0], True, 3),  # clearly within
        ([0.00, 0.01, 0.00, 0.0, 0.0], False, 5),  # which no acceptance may end early
        ([0.05, 0.15, 0.05, 0.15, 0.1], True, 5),  # not settled
    ],
)
def test_only_what_is_settled_ends_early(values, early: bool, used: int) -> None:
    chips = iter([torch.tensor([value, value]) for value in values])
    assert len(settled(chips, 0.1, early_success=early)) == used


def test_drops_are_those_of_evaluate_sample_by_sample(trained) -> None:
    model, data = trained
    analog = analogize(model, LOUD, example_inputs=data[0][0])
    drops = Drops(analog, data, seed=7)
    found = torch.stack(list(islice(drops.series(["4"], 2), 4)))
    assert found.shape == (4, 500)
    assert set(found.unique().tolist()) <= {-1.0, 0.0, 1.0}
    with digital_regions(analog, ["4"]):
        level = evaluate(analog, data, instances=4, seed=chip_seed(7, 2), progress=False).levels[0]
    # evaluate's accuracies are float32.
    expected = [drops.baseline - value for value in level.values]
    assert found.mean(1).tolist() == pytest.approx(expected, abs=1e-6)
    assert estimated(found).samples > 0
    assert drops.passes == 5
    assert all(op.array.chip is None for op in operators(analog))


@pytest.fixture(scope="module")
def normed():
    """A classifier with BatchNorm before every activation, which recalibration re-estimates."""
    torch.manual_seed(0)
    blocks = [(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(1)]
    blocks += [(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(2)]
    model = nn.Sequential(*[layer for block in blocks for layer in block], nn.Linear(32, 4))
    x = torch.randn(500, 8)
    y = x[:, :4].argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), [(x, y)]


@pytest.mark.parametrize("teacher", [False, True])
def test_drops_after_recalibration_are_those_of_evaluate(normed, teacher: bool) -> None:
    model, data = normed
    analog = analogize(model, LOUD, example_inputs=data[0][0])
    state = {name: value.clone() for name, value in analog.state_dict().items()}
    remedy = Recalibration(data, model if teacher else None)
    drops = Drops(analog, data, seed=7, deployment=Deployment(recalibration=remedy))
    found = torch.stack(list(islice(drops.series(["3"], 2), 4)))
    with digital_regions(analog, ["3"]):
        run = {"instances": 4, "seed": chip_seed(7, 2), "progress": False}
        level = evaluate(analog, data, recalibration=remedy, **run).levels[0]
    right = model(data[0][0]).argmax(1) == data[0][1]
    assert drops.baseline == pytest.approx(float(right.double().mean()))
    expected = [drops.baseline - value for value in level.values]
    assert found.mean(1).tolist() == pytest.approx(expected, abs=1e-6)
    everything = [region.name for region in regions(analog)]
    assert not next(drops.series(everything, 0)).any(), "what is wholly digital drops nothing"
    assert all(value.equal(state[name]) for name, value in analog.state_dict().items())


def test_less_has_to_stay_digital_where_chips_are_recalibrated(normed) -> None:
    model, data = normed
    as_is = assign(model, data, LOUD, max_drop=0.1)
    batches = iter([data[0][0]])
    recalibrated = assign(model, data, LOUD, max_drop=0.1, test_data=data, recalibration=batches)
    assert recalibrated.digital_macs < as_is.digital_macs


def test_what_is_digital_stays_so_when_others_look_on(trained) -> None:
    model, data = trained
    analog = analogize(model, LOUD, example_inputs=data[0][0])
    everything = [region.name for region in regions(analog)]
    with digital_regions(analog, everything), torch.no_grad():
        with bypassed(analog), digital_regions(analog, everything[:1]):
            analog(data[0][0])
        torch.testing.assert_close(analog(data[0][0]), model(data[0][0]))


def test_without_noise_one_pass_stands_for_all_chips(trained) -> None:
    model, data = trained
    drops = Drops(analogize(model, "ideal", example_inputs=data[0][0]), data, seed=0)
    found = torch.stack(list(islice(drops.series([], 0), 9)))
    assert (len(found), drops.passes) == (9, 2)
    assert not found.any()


def test_a_greedy_search_costs_less_than_every_chip_of_every_candidate(
    trained, monkeypatch
) -> None:
    monkeypatch.setattr("analogize.analysis.assignment._EXHAUSTIVE", 0)
    found = assign(*trained, LOUD, max_drop=0.1, instances=10, screening=40)
    # The baseline, the tests, and screenings of which only those near the budget take 40 chips.
    screened = found.passes - 1 - 10 * found.tested
    assert screened < 40 * 3


def test_the_budget_holds_on_unseen_samples(trained, tmp_path: Path) -> None:
    model, _ = trained
    torch.manual_seed(5)
    x = torch.randn(2400, 8)
    y = x[:, :4].argmax(1)
    data, test_data, fresh = ([(x[k : k + 800], y[k : k + 800])] for k in (0, 800, 1600))
    found = assign(model, data, LOUD, 0.1, test_data=test_data, instances=20)
    assert found.unseen_samples
    assert (found.samples, found.chips) == (800, 20)
    with torch.no_grad():
        hits = (model(test_data[0][0]).argmax(1) == test_data[0][1]).double()
    assert found.baseline == pytest.approx(float(hits.mean()))
    assert found.drop < found.bound <= 0.1
    (tmp_path / "t.yaml").write_text(found.fragment)
    analog = analogize(model, tmp_path / "t.yaml", example_inputs=x[:2])
    third = Drops(analog, fresh, seed=99)
    other = estimated(torch.stack(list(islice(third.series([], 0), 30))))
    # The bound is on the mean over all chips and samples, which these know to this error.
    assert other.value <= 0.1 + 3 * other.error


def test_data_without_samples_are_refused(trained) -> None:
    with pytest.raises(EvaluationError, match="hold no sample"):
        assign(trained[0], [], LOUD)
    with pytest.raises(EvaluationError, match="used up after one chip"):
        assign(*trained, LOUD, test_data=iter(trained[1]))


@pytest.mark.parametrize("wrong", [{"max_drop": 0}, {"confidence": 1}, {"instances": 1}])
def test_arguments_are_refused(trained, wrong) -> None:
    with pytest.raises(EvaluationError, match="must lie between"):
        assign(*trained, LOUD, **wrong)
