"""Digital corrections belong to the chip they were fitted on; a warning tells of another."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from analogize import (
    Adaptation,
    AnalogModule,
    Recalibration,
    adapt,
    analogize,
    evaluate,
    export_onnx,
    load,
    noise_mode,
    program,
    read_chip,
    recalibrate,
    save,
)

DATA = [torch.randn(32, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]
LABELLED = [(x, x[:, :3].argmax(1)) for x in DATA]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture
def model() -> AnalogModule:
    found = analogize(network(), "pcm_joshi2020", DATA).eval()
    program(found, 1)
    return found


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "analogize")

    def since() -> list[str]:
        found = [r.getMessage() for r in caplog.records if "fitted on one chip" in r.getMessage()]
        caplog.clear()
        return found

    return since


def fit_by_recalibrate(model: nn.Module) -> None:
    recalibrate(model, DATA, model)


def fit_by_adapt(model: nn.Module) -> None:
    adapt(model, DATA, model)


@pytest.mark.parametrize("fit", [fit_by_recalibrate, fit_by_adapt])
@pytest.mark.parametrize("other", [{"seed": 2}, {"seed": 1, "drift_time": "1 day"}, "read"])
def test_another_chip_is_told_once(
    model: AnalogModule,
    told: Callable[[], list[str]],
    fit: Callable[[nn.Module], None],
    other: dict[str, int] | str,
) -> None:
    fit(model)
    program(model, 1)
    assert told() == []
    if isinstance(other, str):
        second = copy.deepcopy(model)
        program(second, 2)
        told()
        program(model, read_chip(second))
    else:
        program(model, **other)  # type: ignore[arg-type]
    (message,) = told()
    assert "'0'" in message
    assert "call it again on this chip" in message
    program(model, 3)
    assert told() == []
    fit(model)
    program(model, 4)
    assert len(told()) == 1


def test_the_same_measured_chip_is_no_other(
    model: AnalogModule, told: Callable[[], list[str]]
) -> None:
    chip = read_chip(model)
    program(model, chip)
    fit_by_recalibrate(model)
    program(model, copy.deepcopy(chip))
    assert told() == []
    program(model, 1)
    assert len(told()) == 1


def test_what_was_fitted_without_a_chip_belongs_to_none(
    model: AnalogModule, told: Callable[[], list[str]]
) -> None:
    clean = network()
    clean.load_state_dict(model.state_dict(), strict=False)
    with noise_mode(model, "off"):
        recalibrate(model, DATA, clean)
    program(model, 2)
    assert told() == []


def test_an_evaluation_tells_of_what_stays_and_not_of_what_it_replaces(
    model: AnalogModule, told: Callable[[], list[str]]
) -> None:
    def run(remedy: Recalibration | Adaptation | None) -> list[str]:
        evaluate(model, LABELLED, score, None, 3, recalibration=remedy, progress=False)
        return told()

    fit_by_recalibrate(model)
    assert run(Recalibration(DATA, model)) == []
    assert run(Adaptation(DATA, model)) == []
    assert len(run(None)) == 1


def test_a_file_of_another_chip_is_told(
    model: AnalogModule, told: Callable[[], list[str]], tmp_path: Path
) -> None:
    fit_by_recalibrate(model)
    kinds: tuple[tuple[Literal["programmed"] | int, int], ...] = (("programmed", 0), (1, 0), (2, 1))
    for noise, count in kinds:
        export_onnx(model, tmp_path / "model.onnx", DATA[0], noise=noise)
        assert len(told()) == count


def test_a_loaded_model_does_not_know(
    model: AnalogModule, told: Callable[[], list[str]], tmp_path: Path
) -> None:
    fit_by_recalibrate(model)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", network())
    program(again.eval(), 2)
    assert told() == []


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()
