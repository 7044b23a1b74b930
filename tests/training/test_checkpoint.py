"""resume= works for any name of a file, and says what is wrong with one that is no checkpoint."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, distill
from analogize.errors import TrainingError
from analogize.training.checkpoint import existing, replace

DATA = [(torch.linspace(-1, 1, 20).view(5, 4), torch.tensor([0, 1, 2, 0, 1]))] * 3


class Count(L.Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.steps, self.stop_at = 0, stop_at

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise ZeroDivisionError


def run(resume: Any, width: int = 3, count: Count | None = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, width))
    student = analogize(teacher, "paper_resnet32")
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    callbacks = [count or Count()]
    distill(student, teacher, DATA, epochs=2, resume=resume, callbacks=callbacks, **options)
    return student.state_dict()


NAMES = ["run.ckpt", "run.pt", "run", "best", "last", "{epoch}", "a{b=c:d.e}", "ü n.ckpt.b", ".run"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_written_and_resumed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Three batches an epoch: the first of the second epoch.
    with pytest.raises(ZeroDivisionError):
        run(name, count=Count(stop_at=4))
    assert os.listdir() == [name]
    whole = run(None)
    for steps in (3, 0):
        count = Count()
        found = run(name, count=count)
        assert count.steps == steps
        assert all(torch.equal(whole[key], found[key]) for key in whole)
        assert os.listdir() == [name]


def test_names_that_read_as_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="without '::' or '://'"):
        run(tmp_path / "a::b")
    with pytest.raises(TrainingError, match="without '::' or '://'"):
        run("s3://bucket/run.ckpt")


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def damage(file: Path) -> None:
    run(file)
    content = bytearray(file.read_bytes())
    where = content.index(b"pytorch-lightning_version")
    content[where : where + 2] = b"\xff\xff"
    file.write_bytes(content)


def change(file: Path, **parts: Any) -> None:
    run(file)
    torch.save(torch.load(file) | parts, file)


def truncate(file: Path) -> None:
    run(file)
    file.write_bytes(file.read_bytes()[:-500])


NO_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "junk": lambda file: file.write_bytes(b"junk" * 100),
    "folder": Path.mkdir,
    "malicious": lambda file: file.write_bytes(pickle.dumps(Trap())),
    "malicious inside": lambda file: torch.save({"state_dict": Trap()}, file),
    "foreign": lambda file: torch.save(nn.Linear(2, 2).state_dict(), file),
    "another type": lambda file: torch.save([1, 2], file),
    "truncated": truncate,
    "damaged": damage,
    "loops": lambda file: change(file, loops={}),
    "another model": lambda file: run(file, width=5),
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "EOFError"),
        ("junk", "cannot be resumed from"),
        ("folder", "is a folder"),
        ("malicious", "UnpicklingError"),
        ("malicious inside", "UnpicklingError"),
        ("foreign", "is no checkpoint of distill.*: it lacks analogize, state_dict"),
        ("another type", "is no checkpoint of distill"),
        ("truncated", "cannot be resumed from"),
        ("damaged", "run.ckpt"),
        ("loops", "cannot be resumed from.*KeyError"),
        ("another model", r"'student.0.weight' is \(5, 4\) in the checkpoint and \(3, 4\) in the"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run.ckpt"
    NO_CHECKPOINTS[kind](file)
    before = None if file.is_dir() else file.read_bytes()
    with pytest.raises(TrainingError, match=message) as caught:
        run(file)
    assert str(file) in str(caught.value)
    assert file.is_dir() or file.read_bytes() == before
    assert not (tmp_path / "trapped").exists()


def test_an_error_of_the_training_itself_stays_its_own(tmp_path: Path) -> None:
    for stop_at in (4, 2):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "run.ckpt", count=Count(stop_at=stop_at))


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Sharded strategies write folders; between the two renames the former one is found again."""
    file = tmp_path / "run.ckpt"
    for content in ("first", "second"):
        draft = tmp_path / ".run.ckpt.draft"
        draft.mkdir()
        (draft / ".metadata").write_text(content)
        replace(draft, file)
        assert (file / ".metadata").read_text() == content
        assert os.listdir(tmp_path) == ["run.ckpt"]
    file.rename(tmp_path / ".run.ckpt.former")
    assert existing(file) == str(file)
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_nothing_is_written_anywhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed amid writing can leave its draft alone, beside the file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    run(tmp_path / "run.ckpt")
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_folders_that_are_not_there_yet_are_made(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "first" / "run.ckpt")
    assert os.listdir(tmp_path / "runs" / "first") == ["run.ckpt"]


def _cut(state: Any) -> None:
    state["momentum_buffer"] = state["momentum_buffer"][:1, :2]


def _words(state: Any) -> None:
    state["momentum_buffer"] = "none"


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_cut, r"is \(1, 2\)"), (_words, "is str")],
)
def test_an_optimizer_that_does_not_fit_is_named(
    damage: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.ckpt"
    with pytest.raises(ZeroDivisionError):
        run(file, count=Count(stop_at=4))
    content = torch.load(file, weights_only=True)
    damage(content["optimizer_states"][0]["state"][0])
    torch.save(content, file)
    told = rf"run\.ckpt: its optimizer's 'momentum_buffer' of parameter 0 {message}.*delete it"
    with pytest.raises(TrainingError, match=told):
        run(file)
