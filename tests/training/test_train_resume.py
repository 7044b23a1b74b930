from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import TrainingNoise, analogize, distill

SCRIPT = """
import os, signal, sys
import lightning as L, torch
from torch import nn
from analogize import Target, analogize, distill
from analogize.targets import load_target
from torch.utils.data import DataLoader, TensorDataset

kill_at, checkpoint, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
class Kill(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))
student = analogize(teacher, "paper_resnet32")
x = torch.randn(64, 6)
data = TensorDataset(x, x[:, :3].argmax(1))
loader = DataLoader(data, 16, shuffle=True, generator=torch.Generator())
distill(student, teacher, loader, loader, epochs=4, seed=3, resume=checkpoint, ema=0.9,
        callbacks=[Kill()], accelerator="cpu", enable_progress_bar=False)
torch.save(student.state_dict(), out)
"""


def test_a_run_killed_in_mid_epoch_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def run(kill_at: int, checkpoint: str) -> int:
        command = [sys.executable, str(script), str(kill_at), *map(str, paths(checkpoint))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=environment, capture_output=True, timeout=120, check=False
        ).returncode

    def paths(checkpoint: str) -> tuple[Path, Path]:
        return tmp_path / f"{checkpoint}.ckpt", tmp_path / f"{checkpoint}.pt"

    assert run(-1, "whole") == 0
    # Four batches an epoch: step 10 is the second of the third epoch.
    assert run(10, "killed") == -signal.SIGKILL
    assert paths("killed")[0].exists()
    assert run(-1, "killed") == 0
    assert same(*(torch.load(paths(name)[1]) for name in ("whole", "killed")))
    # Once more, with nothing left to train: the average again, not the last step's weights.
    assert run(-1, "killed") == 0
    assert same(*(torch.load(paths(name)[1]) for name in ("whole", "killed")))


class Stop(L.Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 10:
            raise InterruptedError


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("settings", [{}, {"noise": TrainingNoise(eta_std=0.02, eta_warmup=3)}])
@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_wherever_the_data_are_shuffled_and_whatever_varies(
    tmp_path: Path, own_generator: bool, settings: dict[str, Any]
) -> None:
    teacher = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))
    start = analogize(teacher, "paper_resnet32")
    x = torch.randn(64, 6)
    data = TensorDataset(x, x[:, :3].argmax(1))

    def run(resume: Path | None, *callbacks: L.Callback) -> dict[str, Tensor]:
        student = copy.deepcopy(start)
        loader = DataLoader(
            data, 16, shuffle=True, generator=torch.Generator() if own_generator else None
        )
        distill(
            student,
            teacher,
            loader,
            epochs=4,
            seed=3,
            resume=resume,
            callbacks=list(callbacks),
            accelerator="cpu",
            enable_progress_bar=False,
            **settings,
        )
        return student.state_dict()

    whole = run(None)
    with pytest.raises(InterruptedError):
        run(tmp_path / "run.ckpt", Stop())
    assert same(whole, run(tmp_path / "run.ckpt"))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_goes_on_in_another_folder_without_a_warning(tmp_path: Path) -> None:
    x = torch.randn(8, 4)
    data = [(x, x[:, :3].argmax(1))]
    made = nn.Sequential(nn.Linear(4, 3))

    def run(folder: str) -> nn.Module:
        student = analogize(copy.deepcopy(made), "paper_resnet32", example_inputs=x)
        quiet: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
        file = tmp_path / folder / "run.ckpt"
        return distill(student, None, data, alpha=0.0, epochs=1, resume=file, **quiet)

    first = run("there")
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "run.ckpt").rename(tmp_path / "here" / "run.ckpt")
    for mine, theirs in zip(run("here").parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, theirs)
