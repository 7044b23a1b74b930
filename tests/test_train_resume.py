from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 16, shuffle=True, generator=GENERATOR)
distill(student, teacher, loader, loader, epochs=4, seed=3, resume=checkpoint, ema=EMA,
        callbacks=[Kill()], accelerator="cpu", enable_progress_bar=False)
torch.save(student.state_dict(), out)
"""


@pytest.mark.parametrize(("generator", "ema"), [("None", "None"), ("torch.Generator()", "0.9")])
def test_a_run_killed_in_mid_epoch_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, generator: str, ema: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("GENERATOR", generator).replace("EMA", ema))

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
    whole, resumed = (torch.load(paths(name)[1]) for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
