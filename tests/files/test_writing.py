"""A full disk, a place where nobody may write: the error names it, and what was there stays."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analogize import (
    analogize,
    distill,
    evaluate,
    export_onnx,
    program,
    read_chip,
    save,
    save_chip,
    sensitivity,
    summary,
    write_report,
)
from analogize.errors import (
    AnalogizeError,
    ChipError,
    EvaluationError,
    ExportError,
    SavingError,
    TrainingError,
)
from analogize.files.writing import writing

DATA = [(torch.linspace(-1, 1, 20 * 64).view(20, 64), torch.arange(20) % 10)]


@cache
def model() -> nn.Module:
    torch.manual_seed(0)
    analog = analogize(nn.Sequential(nn.Linear(64, 10)), "pcm_joshi2020", DATA).eval()
    program(analog, 0)
    return analog


def _resumed(path: Path) -> None:
    evaluate(model(), DATA, instances=2, resume=path, progress=False)


def _trained(path: Path) -> None:
    torch.manual_seed(0)
    student = analogize(nn.Sequential(nn.Linear(64, 10)), "pcm_4bit", DATA)
    options: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
    distill(student, None, DATA, alpha=0.0, epochs=1, resume=path, **options)


def _plotted(path: Path) -> None:
    evaluate(model(), DATA, instances=2, progress=False).plot(path)


def _analysed(path: Path) -> None:
    sensitivity(model(), DATA, instances=2).save(path)


WRITERS: dict[str, tuple[str, type[AnalogizeError], Callable[[Path], object]]] = {
    "save": ("model.safetensors", SavingError, lambda p: save(model(), p)),
    "chip": ("chip.npz", ChipError, lambda p: save_chip(read_chip(model()), p)),
    "onnx": ("model.onnx", ExportError, lambda p: export_onnx(model(), p, DATA[0][0])),
    "report": ("report.html", ExportError, lambda p: write_report(p, model())),
    "drawing": ("model.svg", ExportError, lambda p: summary(model()).draw(p)),
    "plot": ("plot.png", EvaluationError, _plotted),
    "analysis": ("result.json", EvaluationError, _analysed),
    "evaluation": ("run.json", EvaluationError, _resumed),
    "checkpoint": ("run.ckpt", TrainingError, _trained),
}


@contextmanager
def full_disk(size: int = 64) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes: the system says so as if full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_leaves_nothing_new(writer: str, tmp_path: Path) -> None:
    name, error, write = WRITERS[writer]
    path = tmp_path / name
    with full_disk(), pytest.raises(error, match=name):
        write(path)
    assert os.listdir(tmp_path) == []
    # What was there before is as it was; these two would rather go on from it.
    if writer not in ("evaluation", "checkpoint"):
        path.write_text("mine")
        with full_disk(), pytest.raises(error, match=name):
            write(path)
        assert path.read_text() == "mine"
    elif writer == "evaluation":
        write(path)
        before = path.read_bytes()
        with full_disk(), pytest.raises(error, match=name):
            evaluate(model(), DATA, instances=3, resume=path, progress=False)
        assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) <= 1


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_where_nobody_may_write_is_named(writer: str) -> None:
    name, error, write = WRITERS[writer]
    with pytest.raises(error, match=name):
        write(Path("/proc") / name)


def test_a_chip_as_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    chip = read_chip(model())
    with full_disk(), pytest.raises(ChipError, match=r"cannot write the chip to .*mine"):
        save_chip(chip, tmp_path / "mine")
    assert os.listdir(tmp_path) == []
    (tmp_path / "mine").mkdir()
    save_chip(chip, tmp_path / "mine")
    assert "chip.json" in os.listdir(tmp_path / "mine")


def test_links_are_followed_and_devices_are_not_replaced(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    with writing(link, "it", ExportError) as draft:
        draft.write_text("new")
        assert real.read_text() == "old"
    assert link.is_symlink()
    assert real.read_text() == "new"
    named = tmp_path / "plot.png"
    named.symlink_to(real)
    with writing(named, "it", ExportError) as draft:
        draft.write_text("by its name")
        assert draft.suffix == ".png"
    assert real.read_text() == "by its name"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with writing(pipe, "it", ExportError) as draft:
        draft.write_text("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with (
        pytest.raises(ExportError, match="cannot write it to /dev/full: No space left"),
        writing("/dev/full", "it", ExportError) as draft,
    ):
        draft.write_text("x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_what_fails_inside_the_block_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_half() -> None:
        with writing(path, "it", ExportError) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert os.listdir(tmp_path) == []
