"""Workers that are spawned, and a rank that is killed: the others end soon, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from analogize.evaluation.ranks import is_lost_process

SPAWNED = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from analogize import analogize, calibrate, distill, evaluate

class Data(Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, index):
        x = torch.linspace(-1, 1, 8).roll(index)
        return x, index % 3

if __name__ == "__main__":
    torch.manual_seed(0)
    spawned = dict(num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    loader, plain = DataLoader(Data(), 8, **spawned), DataLoader(Data(), 8)
    teacher = nn.Sequential(nn.Linear(8, 3))
    analog = analogize(teacher, "pcm_8bit", loader)
    told = dict(eta=[0.0, 0.05], instances=2, progress=False)
    assert evaluate(analog, loader, **told) == evaluate(analog, plain, **told)
    calibrate(analog, loader)
    distill(analog, teacher, loader, epochs=1, accelerator="cpu", enable_progress_bar=False)
    print("done")
"""

KILLED = """
import os, signal, sys
import torch
from torch import nn
from analogize import analogize, distill
import lightning as L

class Die(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        print("step", flush=True)
        if trainer.global_rank == 1 and trainer.global_step == 60:
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(4, 3))
student = analogize(teacher, "paper_resnet32")
data = [(torch.randn(5, 4), torch.arange(5) % 3)] * 50
distill(student, teacher, data, epochs=9, accelerator="cpu", strategy="ddp", devices=2,
        enable_progress_bar=False, callbacks=[Die()], resume="run.ckpt",
        use_distributed_sampler=False)
print("finished")
"""


def test_loader_workers_that_are_spawned(tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


def test_a_killed_rank_ends_the_others(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    ranks: list[subprocess.Popen[str]] = []
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_500 + os.getpid() % 1000)}
    for rank in ("0", "1"):
        place = {"LOCAL_RANK": rank, "NODE_RANK": "0", "WORLD_SIZE": "2", "RANK": rank}
        command = [sys.executable, script]
        environment = os.environ | address | place
        with (tmp_path / f"out{rank}").open("w") as out, (tmp_path / f"err{rank}").open("w") as err:
            ranks.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=err)
            )
    try:
        assert ranks[1].wait(300) == -signal.SIGKILL
        began = time.monotonic()
        assert ranks[0].wait(60) == 1
        assert time.monotonic() - began < 60
    finally:
        for process in ranks:
            process.kill()
    assert "finished" not in (tmp_path / "out0").read_text()
    last = (tmp_path / "err0").read_text().strip().splitlines()[-1].removeprefix("[rank0]: ")
    assert last.startswith("analogize.errors.TrainingError: another process of the training"), last
    assert "go on from run.ckpt" in last


def test_a_broken_connection_of_anything_else_is_no_lost_process() -> None:
    assert not is_lost_process(ConnectionRefusedError(111, "Connection refused"))
    assert not is_lost_process(BrokenPipeError(32, "Broken pipe"))
    assert is_lost_process(RuntimeError("[pair.cc:545] Read error: Connection reset by peer"))
