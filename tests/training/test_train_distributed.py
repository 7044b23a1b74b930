from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import atexit, sys
import lightning as L, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from analogize import analogize, clip_weights, distill
from analogize.crossbar import ops as crossbar_ops
from analogize.crossbar.ops import operators

out = sys.argv[1]

# Registered before the training's own, hence called after it.
@atexit.register
def note_whether_a_group_is_left():
    with open(f"{out}/left", "a") as file:
        file.write(f"{torch.distributed.is_initialized()}\\n")

class Record(L.Callback):
    def __init__(self):
        self.noise, self.inputs = [], []

    def on_fit_start(self, trainer, module):
        op = operators(module.student)[0]
        drawn = crossbar_ops.fresh_weights
        def seen(one, weight):
            used = drawn(one, weight)
            if one is op:
                self.noise.append(used - one.array.clean(weight.detach()))
            return used
        crossbar_ops.fresh_weights = seen

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.inputs.append(batch[0].clone())
        assert clip_weights(module.student) == 0

    def on_train_end(self, trainer, module):
        weights = {k: v.detach().clone() for k, v in module.student.named_parameters()}
        accuracy = float(trainer.callback_metrics["val_accuracy_chips"])
        torch.save((weights, self.noise, self.inputs, accuracy), f"{out}/{trainer.global_rank}.pt")

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
student = analogize(teacher, "paper_resnet32")
x = torch.randn(64, 6)
data = TensorDataset(x, x[:, :3].argmax(1))
distill(student, teacher, DataLoader(data, 8, shuffle=True), DataLoader(data, 16), epochs=2,
        callbacks=[Record()], accelerator="cpu", devices=2, strategy="ddp",
        enable_progress_bar=False)
# Without validation, whose passes would bring the buffers together, and with an average.
distill(student, teacher, DataLoader(data, 8, shuffle=True), epochs=1, ema=0.5,
        accelerator="cpu", devices=2, strategy="ddp", enable_progress_bar=False)
torch.save(student.state_dict(), f"{out}/returned-{torch.distributed.get_rank()}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_stay_in_sync_with_different_data_and_noise(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[0][key], second[0][key]) for key in first[0])
    one, other = (torch.load(tmp_path / f"returned-{rank}.pt") for rank in range(2))
    # BatchNorm's statistics too, which every process takes from its own data.
    assert all(torch.equal(one[key], other[key]) for key in one)
    # Two epochs of 64 samples in batches of 8, over two processes: 8 steps each.
    assert len(first[1]) == len(second[1]) == 8
    assert not any(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    seen = torch.cat([*first[2][:4], *second[2][:4]])
    assert len(seen.unique(dim=0)) == 64, "the processes did not split the epoch between them"
    assert first[3] == second[3]
    # A group left to the interpreter's end can abort a process that did all its work.
    assert (tmp_path / "left").read_text() == "False\n" * 2
