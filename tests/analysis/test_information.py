"""Mutual information against cases whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from analogize import analogize
from analogize.analysis.chip_outputs import identity
from analogize.analysis.entropy import binned_information, entropy, grassberger, plug_in
from analogize.analysis.information import take, to_cells
from analogize.analysis.neighbours import local_information
from analogize.analyze import Information, mutual_information
from analogize.errors import EvaluationError
from analogize.targets.spec import FixedSNRNoise, Target


def by_definition(cells: np.ndarray, weights) -> float:
    conditional = [entropy(np.bincount(column), weights) for column in cells.T]
    return entropy(np.bincount(cells.ravel()), weights) - float(np.mean(conditional))


@pytest.mark.parametrize("weights", [plug_in, grassberger])
def test_information_and_jackknife_follow_their_definitions(weights) -> None:
    cells = np.random.default_rng(0).integers(0, 5, (7, 6))
    found = binned_information(cells, weights)
    assert found.value == pytest.approx(by_definition(cells, weights), abs=1e-12)
    for axis, error in ((0, found.chips), (1, found.samples)):
        n = cells.shape[axis]
        left = [by_definition(np.delete(cells, i, axis), weights) for i in range(n)]
        assert error == pytest.approx(math.sqrt((n - 1) * np.var(left)), rel=1e-9)


def test_grassberger_corrects_most_of_the_plug_in_bias() -> None:
    generator, cells, draws = np.random.default_rng(1), 64, 100
    found = {plug_in: 0.0, grassberger: 0.0}
    for _ in range(200):
        counts = np.bincount(generator.integers(0, cells, draws), minlength=cells)
        for weights in found:
            found[weights] += entropy(counts, weights) / 200
    # The plug-in bias is (cells - 1) / (2 draws) to first order; the mean's own error is 0.005.
    assert math.log(cells) - found[plug_in] == pytest.approx(63 / 200, rel=0.25)
    assert abs(math.log(cells) - found[grassberger]) < 0.03


def test_neighbours_meet_a_known_channel() -> None:
    # Two inputs at +-1 with unit Gaussian noise: 0.4859 bits, by numerical integration.
    generator = np.random.default_rng(2)
    y = generator.normal(size=(2000, 2, 1)) + np.array([-1.0, 1.0])[None, :, None]
    local = local_information(y)
    # A local term's standard deviation is about 1, so the mean of 4,000 is known to 0.016.
    assert float(local.mean()) == pytest.approx(0.4859 * math.log(2), abs=0.05)


def test_neighbours_know_the_extremes() -> None:
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(1, 20, 3))
    exact = np.broadcast_to(centres, (50, 20, 3)).copy()
    apart = centres + 1e-6 * generator.normal(size=(50, 20, 3))
    for y in (exact, apart):  # outputs tell the input exactly: log 20, but for 1 / (2 n)
        assert float(local_information(y).mean()) == pytest.approx(math.log(20), abs=0.02)
    one = np.zeros((50, 20, 3))
    alike = generator.normal(size=(50, 20, 3))
    for y in (one, alike):  # outputs tell nothing
        # psi(k) - psi(m) spreads by about psi'(3)^(1/2) = 0.6; three errors of a mean of 1,000.
        assert float(local_information(y).mean()) == pytest.approx(0, abs=0.06)


def test_neighbours_survive_outputs_on_a_grid() -> None:
    # Saturated softmax outputs lie on float32's grid: many neighbours at exactly the same distance.
    y = np.random.default_rng(4).integers(0, 6, (60, 20, 2)) / 6.0
    # A thousand terms that each spread by less than 0.6.
    assert abs(float(local_information(y).mean())) < 0.06


def test_cells_divide_the_limits() -> None:
    y = np.array([[[0.0, 1.0], [0.24, 0.26], [-3.0, 7.0]]])
    assert to_cells(y, 4, (0, 1)).tolist() == [[1, 0, 1]]


def network(eta: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    target = Target(name="fixed_snr", noise=(FixedSNRNoise(ratio=eta),))
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    return analogize(model, target, example_inputs=torch.randn(2, 5))


def test_information_falls_with_noise_and_reads_back(tmp_path) -> None:
    data = [(4 * torch.randn(16, 5), torch.zeros(16)) for _ in range(3)]
    result = mutual_information(network(), data, eta=[0, 0.3, 30], samples=40, instances=20)
    for name in ("neighbours", "binned", "corrected"):
        shares = result.normalized(name)
        assert shares[0].value == pytest.approx(1)
        assert shares[0].value > shares[1].value > shares[2].value
    assert result.rows[0].neighbours.value == pytest.approx(math.log(40), abs=0.03)
    assert result.rows[2].neighbours.value < 0.4
    # Without noise nothing is biased; with it, the binned estimate cannot see below its floor.
    assert result.rows[2].binned.value > 0.5 * result.rows[2].floor > 0
    result.save(tmp_path / "r.json")
    assert Information.load(tmp_path / "r.json") == result
    result.plot().savefig(tmp_path / "r.png")


def test_a_level_without_its_reference_still_gets_one() -> None:
    data = [(torch.randn(10, 5), torch.zeros(10))]
    one = mutual_information(network(), data, eta=0.3, samples=10, instances=6)
    both = mutual_information(network(), data, eta=[0, 0.3], samples=10, instances=6)
    assert one.reference == both.reference
    assert one.rows[0] == both.rows[1]


def test_nothing_to_normalize_by_is_said() -> None:
    data = [(torch.ones(4, 5), torch.zeros(4))]
    result = mutual_information(network(), data, samples=4, instances=4, output=identity)
    with pytest.raises(EvaluationError, match="tells nothing"):
        result.normalized()
    with pytest.raises(EvaluationError, match="no estimator 'ksg'"):
        result.normalized("ksg")


def test_take_cuts_the_last_batch() -> None:
    data = [({"x": torch.zeros(4, 2)}, torch.zeros(4)) for _ in range(3)]
    assert [len(t) for _, t in take(data, 6)] == [4, 2]
    with pytest.raises(EvaluationError, match="hold 12 samples, fewer than the 13"):
        list(take(data, 13))


@pytest.mark.parametrize(
    "arguments", [{"bins": 1}, {"samples": 1}, {"limits": (1, 1)}, {"neighbours": 6}]
)
def test_arguments_are_refused(arguments) -> None:
    data = [(torch.randn(4, 5), torch.zeros(4))]
    with pytest.raises(EvaluationError, match=r"must be|needs"):
        mutual_information(network(), data, **({"samples": 4, "instances": 5} | arguments))
