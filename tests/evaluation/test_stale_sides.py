"""Digital corrections belong to the chip they were fitted on; a warning tells of another."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from torch import Tensor, nn

from analogize import (
    Adaptation,
    AnalogModule,
    Chip,
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
from analogize.errors import CalibrationError, SavingError
from analogize.saving.container import read, write

DATA = [torch.randn(32, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]
LABELLED = [(x, x[:, :3].argmax(1)) for x in DATA]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def with_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)).eval()


def pickled(model: nn.Module) -> nn.Module:
    return cast(nn.Module, pickle.loads(pickle.dumps(model)))


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


@pytest.mark.parametrize("chip", [False, True])
@pytest.mark.parametrize("measured", [False, True])
def test_a_loaded_model_knows(
    model: AnalogModule,
    told: Callable[[], list[str]],
    tmp_path: Path,
    chip: bool,
    measured: bool,
) -> None:
    first: int | Chip = read_chip(model) if measured else 1
    program(model, first)
    fit_by_recalibrate(model)
    save(model, tmp_path / "model.safetensors", chip=chip)
    again = load(tmp_path / "model.safetensors", network()).eval()
    program(again, first)
    assert told() == []
    program(again, 2)
    assert len(told()) == 1


@pytest.mark.parametrize("told_of", [{"nowhere": ("a",)}, {"0.analog": ()}])
def test_a_damaged_record_is_refused(
    model: AnalogModule, tmp_path: Path, told_of: dict[str, tuple[str, ...]]
) -> None:
    fit_by_recalibrate(model)
    file = save(model, tmp_path / "model.safetensors")
    manifest, tensors = read(file)
    write(file, tensors, manifest.model_copy(update={"fitted": told_of}))
    with pytest.raises(SavingError, match="manifest is damaged: fitted"):
        load(file, network())


def test_what_a_state_dict_brings_is_of_no_known_chip(
    model: AnalogModule, told: Callable[[], list[str]]
) -> None:
    other = copy.deepcopy(model)
    program(other, 2)
    fit_by_recalibrate(other)
    fit_by_recalibrate(model)
    model.load_state_dict(other.state_dict())
    program(model, 2)
    assert told() == []


class TestBatchNorm:
    @pytest.fixture
    def normed(self) -> AnalogModule:
        found = analogize(with_norm(), "pcm_joshi2020", DATA).eval()
        program(found, 1)
        recalibrate(found, DATA, shrink=False)
        return found

    def test_statistics_of_another_chip_are_told_once(
        self, normed: AnalogModule, told: Callable[[], list[str]]
    ) -> None:
        program(normed, 1)
        assert told() == []
        program(normed, 1, drift_time="1 day")
        (message,) = told()
        assert "'1'" in message
        program(normed, 2)
        assert told() == []
        recalibrate(normed, DATA, shrink=False)
        program(normed, 3)
        assert len(told()) == 1

    @pytest.mark.parametrize("way", [copy.deepcopy, torch.nn.Module.double, pickled])
    def test_copies_know_too(
        self,
        normed: AnalogModule,
        told: Callable[[], list[str]],
        way: Callable[[nn.Module], nn.Module],
    ) -> None:
        again = way(normed)
        program(again, 1)
        assert told() == []
        program(again, 2)
        assert len(told()) == 1

    def test_a_loaded_model_knows(
        self, normed: AnalogModule, told: Callable[[], list[str]], tmp_path: Path
    ) -> None:
        save(normed, tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors", with_norm()).eval()
        program(again, 1)
        assert told() == []
        export_onnx(again, tmp_path / "model.onnx", DATA[0], noise=2)
        assert len(told()) == 1

    @pytest.mark.parametrize("how", ["trained", "loaded", "averaged over noise", "without noise"])
    def test_statistics_of_no_chip_are_not_told(
        self, normed: AnalogModule, told: Callable[[], list[str]], how: str
    ) -> None:
        if how == "trained":
            normed.train()
            normed(DATA[0])
            normed.eval()
        elif how == "loaded":
            normed.load_state_dict(analogize(with_norm(), "pcm_joshi2020", DATA).state_dict())
        else:
            with noise_mode(normed, "off" if how == "without noise" else "fresh"):
                recalibrate(normed, DATA, shrink=False)
        program(normed, 2)
        assert told() == []

    def test_an_evaluation_leaves_no_mark_and_tells_of_what_stays(
        self, normed: AnalogModule, told: Callable[[], list[str]]
    ) -> None:
        plain = analogize(with_norm(), "pcm_joshi2020", DATA).eval()
        for model, count in ((plain, 0), (normed, 1)):
            remedy = Recalibration(DATA, shrink=False)
            evaluate(model, LABELLED, score, None, 3, recalibration=remedy, progress=False)
            evaluate(model, LABELLED, score, None, 3, progress=False)
            assert len(told()) == count

    def test_in_a_bigger_model_the_chip_is_another(
        self, normed: AnalogModule, told: Callable[[], list[str]]
    ) -> None:
        program(nn.Sequential(normed, nn.Linear(3, 3)), 1)
        assert len(told()) == 1

    def test_a_failed_recalibration_changes_no_mark(
        self, normed: AnalogModule, told: Callable[[], list[str]]
    ) -> None:
        program(normed, 1)
        with pytest.raises(CalibrationError):
            recalibrate(normed, [DATA[0] * float("nan")], shrink=False)
        program(normed, 1)
        assert told() == []
        program(normed, 2)
        assert len(told()) == 1


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()
