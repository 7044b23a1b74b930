"""An evaluation that was interrupted goes on, and never mixes two runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analogize import Adaptation, Recalibration, Target, analogize
from analogize.errors import EvaluationError
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.montecarlo import evaluate

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]
Make = Callable[..., Any]


@pytest.mark.parametrize("stop_at", [1, 4, 8, 14, 20])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    stop_at: int, analog: nn.Module, batches: Batches, tmp_path: Path, counted: Make
) -> None:
    settings: dict[str, Any] = {"eta": [0.0, 0.05, None], "instances": 4, "seed": 9}
    whole = evaluate(analog, batches, **settings)
    file = tmp_path / "run.json"
    interrupted = counted(batches, stop_at)
    with pytest.raises(KeyboardInterrupt):
        evaluate(analog, interrupted, **settings, resume=file)
    partial = Evaluation.load(file)
    assert not partial.complete
    measured = sum(len(level.values) for level in partial.levels)
    assert measured == (stop_at - 1) // len(batches)
    torch.manual_seed(123)  # another process would not have the same random state
    rest = counted(batches)
    resumed = evaluate(analog, rest, **settings, resume=file)
    assert resumed == whole
    assert Evaluation.load(file) == whole
    assert rest.passes == 1 + 4 + 4 - measured


def test_a_model_that_draws_resumes_exactly(
    batches: Batches, tmp_path: Path, dreaming: Make, counted: Make
) -> None:
    model = analogize(dreaming(), "ideal")
    file = tmp_path / "run.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, counted(batches, 8), instances=5, resume=file)
    assert evaluate(model, batches, instances=5, resume=file) == evaluate(
        model, batches, instances=5
    )


def test_a_finished_run_is_read_not_repeated(
    analog: nn.Module, batches: Batches, tmp_path: Path, counted: Make
) -> None:
    first = evaluate(analog, batches, instances=3, resume=tmp_path / "run.json")
    data = counted(batches)
    assert evaluate(analog, data, instances=3, resume=tmp_path / "run.json") == first
    assert data.given == 0


@pytest.mark.parametrize(("instances", "passes"), [(5, 2), (2, 0)])
def test_instances_may_change(
    instances: int, passes: int, analog: nn.Module, batches: Batches, tmp_path: Path, counted: Make
) -> None:
    evaluate(analog, batches, instances=3, resume=tmp_path / "run.json")
    data = counted(batches)
    resumed = evaluate(analog, data, instances=instances, resume=tmp_path / "run.json")
    assert resumed == evaluate(analog, batches, instances=instances)
    assert data.passes == passes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"eta": [0.2]}, r"noise levels 0\.1 instead of 0\.2"),
        ({"metric": F.cross_entropy}, "metric accuracy instead of torch.nn.functional"),
    ],
)
def test_another_run_is_refused_by_name(
    change: dict[str, Any],
    message: str,
    analog: nn.Module,
    batches: Batches,
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.json"
    settings: dict[str, Any] = {"eta": [0.1], "instances": 1, "resume": file}
    evaluate(analog, batches, **settings)
    kept = file.read_text()
    with pytest.raises(EvaluationError, match=f"another run: {message}.*to start over"):
        evaluate(analog, batches, **(settings | change))
    assert file.read_text() == kept


def test_other_weights_ranges_or_noise_are_refused(
    quantized: MakeTarget, batches: Batches, tmp_path: Path, net: Make
) -> None:
    net, file = net(), tmp_path / "run.json"
    first = analogize(net, quantized(bits=6, eta=0.1), batches)
    evaluate(first, batches, instances=1, resume=file)
    for message, target, calibration in (
        ("another target", quantized(bits=6, eta=0.2), batches),
        ("another target", quantized(bits=5, eta=0.1), batches),
        ("other weights or calibrated ranges", quantized(bits=6, eta=0.1), batches[:1]),
    ):
        other = analogize(net, target, calibration)
        with pytest.raises(EvaluationError, match=message):
            evaluate(other, batches, instances=1, resume=file)
    with torch.no_grad():
        next(first.parameters())[0, 0, 0, 0] += 1e-6
    with pytest.raises(EvaluationError, match="other weights"):
        evaluate(first, batches, instances=1, resume=file)


def test_other_data_are_refused_by_their_size(
    analog: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    evaluate(analog, batches, instances=1, resume=tmp_path / "run.json")
    with pytest.raises(EvaluationError, match="47 samples before and 20 now"):
        evaluate(analog, batches[:1], instances=2, resume=tmp_path / "run.json")


def test_a_file_that_cannot_be_written_fails_before_the_first_chip(
    analog: nn.Module, batches: Batches, tmp_path: Path, counted: Make
) -> None:
    data = counted(batches)
    with pytest.raises(EvaluationError, match="cannot write the evaluation to"):
        evaluate(analog, data, resume=tmp_path / "none" / "run.json")
    assert data.given == 0


def test_no_half_written_file_is_left(analog: nn.Module, batches: Batches, tmp_path: Path) -> None:
    evaluate(analog, batches, instances=2, resume=tmp_path / "run.json")
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["schema"] == 1


def remove(level: dict[str, Any]) -> None:
    del level["values"][1]


def remove_with_seed(level: dict[str, Any]) -> None:
    del level["values"][1], level["seeds"][1]


def add(level: dict[str, Any]) -> None:
    level["values"].insert(0, 1.0)


def swap(level: dict[str, Any]) -> None:
    level["seeds"][:2] = level["seeds"][1::-1]


def forget(level: dict[str, Any]) -> None:
    level["seeds"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, "3 values for 4 chips, at eta = 0.1: a value was removed or added"),
        (remove_with_seed, "the value of another chip in the place of chip 1, at eta = 0.1"),
        (add, "5 values for 4 chips"),
        (swap, "the value of another chip in the place of chip 0"),
        (forget, "4 values for 0 chips"),
    ],
)
def test_a_value_removed_or_added_by_hand_is_noticed(
    change: Callable[[dict[str, Any]], None],
    message: str,
    analog: nn.Module,
    batches: Batches,
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.json"
    settings: dict[str, Any] = {"eta": [None, 0.1], "instances": 4, "resume": file}
    evaluate(analog, batches, **settings)
    content = json.loads(file.read_text())
    change(content["levels"][1])
    file.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=f"run.json holds {message}.*to start over"):
        evaluate(analog, batches, **settings)


def test_levels_removed_or_exchanged_by_hand_are_noticed(
    analog: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    settings: dict[str, Any] = {"eta": [None, 0.1], "instances": 1, "resume": file}
    evaluate(analog, batches, **settings)
    content = json.loads(file.read_text())
    for levels in (content["levels"][:1], content["levels"][::-1]):
        file.write_text(json.dumps(content | {"levels": levels}))
        with pytest.raises(EvaluationError, match="levels that are not those of its own"):
            evaluate(analog, batches, **settings)


@pytest.mark.parametrize(
    "change", [{"precision": float("nan")}, {"precision": 0.0}, {"instances": 0}, {"levels": [{}]}]
)
def test_numbers_that_no_run_has_are_refused(
    change: dict[str, Any], analog: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    evaluate(analog, batches, instances=2, resume=file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EvaluationError, match="is no evaluation of schema 1"):
        Evaluation.load(file)


def test_values_without_a_deviation_are_refused(
    analog: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    evaluate(analog, batches, instances=2, resume=file)
    content = json.loads(file.read_text())
    content["levels"][0]["values"] = [1.7e308, -1.7e308]
    file.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="too large"):
        Evaluation.load(file)


@pytest.mark.parametrize("remedy", [Recalibration, Adaptation])
def test_a_run_is_not_continued_with_another_teacher(
    remedy: Make, analog: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    few, run = [batches[0][0]], {"instances": 2, "resume": tmp_path / "run.json"}
    first = evaluate(analog, batches, recalibration=remedy(few, analog), **run)
    other = copy.deepcopy(analog)
    assert evaluate(analog, batches, recalibration=remedy(few, other), **run) == first
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)
    with pytest.raises(EvaluationError, match="to teacher"):
        evaluate(analog, batches, recalibration=remedy(few, other), **run)


@pytest.mark.parametrize(
    "remedy", [lambda few, _: few, lambda few, _: Recalibration(few), Recalibration, Adaptation]
)
def test_a_run_is_not_continued_with_other_images_for_its_chips(
    remedy: Make, batches: Batches, tmp_path: Path
) -> None:
    features = batches[0][0][0].numel()
    layers = nn.Flatten(), nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
    analog = analogize(nn.Sequential(*layers).eval(), "paper_resnet32")
    few, run = [batches[0][0]], {"instances": 2, "resume": tmp_path / "run.json"}
    first = evaluate(analog, batches, recalibration=remedy(few, analog), **run)
    assert evaluate(analog, batches, recalibration=remedy(few, analog), **run) == first
    with pytest.raises(EvaluationError, match="on data"):
        evaluate(analog, batches, recalibration=remedy([few[0] + 1], analog), **run)
