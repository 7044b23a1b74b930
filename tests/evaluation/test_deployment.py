"""Chips over time: levels by time, compensation, BatchNorm re-estimation, nothing left behind."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, evaluate
from analogize.crossbar.ops import operators
from analogize.errors import ChipError, EvaluationError
from analogize.evaluation.evaluation import Evaluation

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).eval()


@pytest.fixture
def batches(net: nn.Module) -> Batches:
    """Inputs labelled by the network itself, so that it is right about all of them."""
    x = torch.randn(256, 16)
    net.train()
    for _ in range(60):
        net(x)
    net.eval()
    with torch.no_grad():
        return [(x, net(x).argmax(1))]


def squared_error(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs - targets).square().mean())


def test_every_noise_level_at_every_time(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    analog = analogize(net, "pcm_joshi2020", batches)
    result = evaluate(
        analog, batches, instances=2, drift_time=["0 s", "1 day"], resume=tmp_path / "a.json"
    )

    assert [level.drift_time for level in result.levels] == [0.0, 86400.0]
    assert all(len(level.values) == 2 for level in result.levels)
    assert [row["drift_time"] for row in result.to_rows()] == [0.0, 86400.0]
    assert "1 day" in str(result)
    assert Evaluation.load(tmp_path / "a.json") == result
    assert result.plot().axes[0].get_xlabel() == "time since programming (s)"
    with pytest.raises(EvaluationError, match="times"):
        evaluate(analog, batches, instances=2, drift_time="1 hour", resume=tmp_path / "a.json")


def test_compensation_undoes_the_mean_loss(net: nn.Module, batches: Batches) -> None:
    """After a year outputs shrink by (1.6e6)^-0.05 = 0.49 at least; the factor takes it back."""
    with torch.no_grad():
        exact = [(x, net(x)) for x, _ in batches]
    analog = analogize(net, "pcm_joshi2020", batches)
    errors = [
        evaluate(
            analog, exact, squared_error, instances=4, drift_time="1 year", compensation=rule
        ).levels[0]
        for rule in ("none", "global")
    ]
    assert errors[0].mean is not None
    assert errors[1].mean is not None
    assert errors[1].mean < 0.5 * errors[0].mean


def test_batch_norm_re_estimated_on_every_chip(net: nn.Module, batches: Batches) -> None:
    analog = analogize(net, "pcm_joshi2020", batches)
    before = {k: v.clone() for k, v in analog.state_dict().items()}

    def run(recalibration: Batches | None) -> float:
        level = evaluate(
            analog,
            batches,
            instances=4,
            drift_time="1 year",
            compensation="none",
            recalibration=recalibration,
        ).levels[0]
        assert level.mean is not None
        return level.mean

    assert run(batches) > run(None)
    for key, value in analog.state_dict().items():
        assert value.equal(before[key]), key


def test_no_correction_is_left_behind(net: nn.Module, batches: Batches) -> None:
    analog = analogize(net, "pcm_joshi2020", batches)
    evaluate(analog, batches, instances=1, drift_time="1 year")
    assert all(op.array.chip is None and op.array.correction is None for op in operators(analog))


def test_times_that_cannot_be(net: nn.Module, batches: Batches) -> None:
    analog = analogize(net, "pcm_joshi2020", batches)
    with pytest.raises(EvaluationError, match="1 minute twice"):
        evaluate(analog, batches, instances=1, drift_time=[60, "1 minute"])
    with pytest.raises(EvaluationError, match="drift_time is empty"):
        evaluate(analog, batches, instances=1, drift_time=[])
    with pytest.raises(ChipError, match="'sometime' is no time"):
        evaluate(analog, batches, instances=1, drift_time="sometime")
    with pytest.raises(ChipError, match="compensation 'all' is unknown"):
        evaluate(analog, batches, instances=1, compensation="all")  # type: ignore[arg-type]


def test_what_differs_from_chip_to_chip_is_not_batched_over_chips(
    net: nn.Module, batches: Batches
) -> None:
    analog = analogize(net, "pcm_joshi2020", batches)
    many = {"instances": 2, "at_once": 2, "progress": False}
    with pytest.raises(EvaluationError, match="at_once is 2, and with recalibration"):
        evaluate(analog, batches, recalibration=batches, **many)
    with pytest.raises(ChipError, match=r"corrected for drift.*at_once=1"):
        evaluate(analog, batches, drift_time="1 day", **many)
