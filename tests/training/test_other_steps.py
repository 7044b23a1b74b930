"""A checkpoint is gone on from by the steps that it was made with, and by no others."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR

from analogize import AnalogModule, distill
from analogize.errors import TrainingError

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(count, 16, 6, generator=torch.Generator().manual_seed(1))
    return [(one, one[:, :3].argmax(1)) for one in x]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("epochs", "count"), [(3, 6), (2, 4)])
def test_a_schedule_of_another_length_is_refused(
    student: AnalogModule, teacher: nn.Module, tmp_path: Path, epochs: int, count: int
) -> None:
    file = tmp_path / "run.ckpt"

    class Killed(L.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        distill(student, teacher, batches(), epochs=2, resume=file, callbacks=[Killed()], **QUIET)
    before, kept = weights(student), file.read_bytes()
    with pytest.raises(TrainingError, match=rf"over 12 steps.*has {epochs * count}") as raised:
        distill(student, teacher, batches(count), epochs=epochs, resume=file, **QUIET)
    assert str(file) in str(raised.value)
    assert same(before, weights(student))
    assert file.read_bytes() == kept
    distill(student, teacher, batches(), epochs=2, resume=file, **QUIET)
    # Nor is a finished run taken for a longer or a shorter one.
    for other in (1, 4):
        with pytest.raises(TrainingError, match=f"over 12 steps.*has {6 * other}"):
            distill(student, teacher, batches(), epochs=other, resume=file, **QUIET)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"ema": 0.9}, "ema None instead of 0.9"),
        ({"ema": 0.9}, {}, "ema 0.9 instead of None"),
        ({"ema": 0.9}, {"ema": 0.99}, "ema 0.9 instead of 0.99"),
        (
            {},
            {"optimizer": partial(SGD, lr=0.1)},
            "first learning rate is 0.01, and 0.1 is asked for",
        ),
        (
            {"optimizer": partial(Adam, weight_decay=0.1)},
            {"optimizer": partial(Adam, weight_decay=0.2)},
            "weight decay is 0.1, and 0.2 is asked for",
        ),
    ],
)
def test_other_steps_than_before_are_refused(
    student: AnalogModule,
    teacher: nn.Module,
    tmp_path: Path,
    before: dict[str, Any],
    now: dict[str, Any],
    told: str,
) -> None:
    options = QUIET | {"scheduler": partial(ConstantLR, factor=1.0)}
    file = tmp_path / "run.ckpt"
    distill(student, teacher, batches(), epochs=1, resume=file, **options | before)
    kept, held = file.read_bytes(), weights(student)
    for epochs in (1, 2):  # finished, and with an epoch to go
        with pytest.raises(TrainingError, match=told) as raised:
            distill(student, teacher, batches(), epochs=epochs, resume=file, **options | now)
        assert str(raised.value).count(str(file)) == 1
    assert file.read_bytes() == kept
    assert same(held, weights(student))


def test_another_teacher_is_refused(
    student: AnalogModule, teacher: nn.Sequential, tmp_path: Path
) -> None:
    file = tmp_path / "run.ckpt"
    distill(student, teacher, batches(), epochs=1, resume=file, **QUIET)
    # The same weights, wrapped or in a copy, are the same teacher.
    for alike in (torch.compile(teacher), copy.deepcopy(teacher)):
        distill(student, alike, batches(), epochs=1, resume=file, **QUIET)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[2].weight[1, 2] += 1e-3
    for unlike in (other, copy.deepcopy(teacher).double()):
        with pytest.raises(TrainingError, match=r"teacher '.*' instead of"):
            distill(student, unlike, batches(), epochs=1, resume=file, **QUIET)


def test_a_longer_run_goes_on_along_a_schedule_of_its_own(
    student: AnalogModule, teacher: nn.Module, tmp_path: Path
) -> None:
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    halved = partial(ExponentialLR, gamma=0.5)
    for epochs in (1, 3):
        distill(
            student,
            teacher,
            batches(),
            epochs=epochs,
            scheduler=halved,
            resume=tmp_path / "run.ckpt",
            callbacks=[Rates()],
            **QUIET,
        )
    assert rates == pytest.approx([0.01, 0.005, 0.0025])
