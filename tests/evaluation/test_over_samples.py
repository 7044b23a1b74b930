"""Intervals of an accuracy over chips and samples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import analogize, evaluate
from analogize.evaluation.hits import matrix, pack, two_way_interval
from analogize.evaluation.intervals import t_interval
from analogize.evaluation.level import Level
from analogize.targets.spec import Target

NOISY = Target(
    name="t",
    weights={"range": {"kind": "absmax"}},
    noise=({"model": "gaussian", "eta": 0.15},),
)


def model_and_data(samples: int = 90) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
    x = torch.randn(samples, 12)
    return analogize(model, NOISY, example_inputs=x), x, model(x).argmax(1)


def batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(32), y.split(32), strict=True))


def test_hits_come_back_as_they_were() -> None:
    hits = torch.rand(3, 37, generator=torch.Generator().manual_seed(0)) < 0.7
    targets = torch.arange(37) % 5
    lines = [pack(one, targets) for one in hits]
    assert np.array_equal(matrix(lines), hits.numpy())  # type: ignore[arg-type]
    assert matrix([*lines, pack(hits[0], targets.flip(0))]) is None
    assert matrix([lines[0], pack(hits[0, :30], targets[:30])]) is None
    assert matrix([]) is None


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_hits_of_every_chip_are_its_accuracy(at_once: int) -> None:
    model, x, y = model_and_data()
    found = evaluate(model, batches(x, y), instances=5, at_once=at_once, progress=False).levels[0]
    held = matrix(found.hits)
    assert held is not None
    assert np.allclose(held.mean(1), found.values)
    interval = found.interval_over_samples
    assert interval is not None
    assert interval[0] < float(np.mean(found.values)) < interval[1]


def test_they_are_resumed(tmp_path: Path) -> None:
    model, x, y = model_and_data()
    file = tmp_path / "run.json"
    evaluate(model, batches(x, y), instances=3, resume=file, progress=False)
    resumed = evaluate(model, batches(x, y), instances=5, resume=file, progress=False)
    assert resumed.levels == evaluate(model, batches(x, y), instances=5, progress=False).levels
    assert len(resumed.levels[0].hits) == 5
    fewer = evaluate(model, batches(x, y), instances=2, resume=file, progress=False)
    assert len(fewer.levels[0].hits) == 2


def test_where_nothing_is_drawn_samples_alone_are() -> None:
    model, x, y = model_and_data()
    level = evaluate(model, batches(x, (y + (torch.arange(90) % 3 == 0)) % 4), eta=0.0).levels[0]
    assert level.deterministic
    low, high = level.interval_over_samples or (0.0, 0.0)
    # 60 of 90: a binomial deviation of 5 points, 1.96 of them to either side.
    deviation = (2 / 3 / 3 / 90) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.15)


def test_shuffled_samples_and_other_metrics_have_none() -> None:
    model, x, y = model_and_data()
    shuffled = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    assert evaluate(model, shuffled, instances=3).levels[0].interval_over_samples is None

    def mean(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    assert evaluate(model, batches(x, y), mean, instances=3).levels[0].interval_over_samples is None
    assert Level(eta=None, values=(0.5, 0.6)).interval_over_samples is None


def test_coverage_over_chips_and_samples() -> None:
    """Chips and samples with effects of their own: 95 % or more, where chips alone cover few.

    Of 300 runs at 95 % fewer than 273 (91 %) happen in 0.2 % of all tests.
    """
    generator = np.random.default_rng(0)
    runs, chips, samples = 300, 12, 150
    # The population: hits where chip + sample + both is above 0.
    everything = [generator.normal(size=100_000) for _ in range(3)]
    truth = float((0.1 * everything[0] + 1.2 * everything[1] + 0.2 * everything[2] > -1.0).mean())
    covered, alone = 0, 0
    for run in range(runs):
        of_chips, of_samples = generator.normal(size=chips), generator.normal(size=samples)
        both = generator.normal(size=(chips, samples))
        hits = 0.1 * of_chips[:, None] + 1.2 * of_samples + 0.2 * both > -1.0
        low, high = two_way_interval(hits, draws=400, seed=run)
        covered += low <= truth <= high
        values = hits.mean(1)
        of_mean = t_interval([float(v) for v in values])
        assert of_mean is not None
        alone += of_mean[0] <= truth <= of_mean[1]
    assert covered >= 273
    assert alone < 0.75 * runs
