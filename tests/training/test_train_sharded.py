"""Fully sharded parameters (FSDP2), on two gloo processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SETUP = """
import sys
from pathlib import Path
import lightning as L, torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from analogize import analogize, clip_weights, distill, evaluate, program
from analogize.errors import ChipError, TrainingError
from analogize.targets.spec import Target

out = Path(sys.argv[1])
torch.manual_seed(0)
x = torch.randn(64, 6)
labels = x[:, :3].argmax(1)
data = TensorDataset(x, labels)

def whole(parameter):
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()

def models(granularity):
    target = Target.model_validate({
        "schema": 1, "name": "noisy", "noise": [{"model": "gaussian", "eta": 0.05}],
        "weights": {"bits": 4, "granularity": granularity,
                    "range": {"kind": "std", "multiple": 1.0}}})
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return analogize(teacher, target), teacher

def sharded(data_parallel=2, tensor_parallel=1):
    return ModelParallelStrategy(
        data_parallel, tensor_parallel, save_distributed_checkpoint=False)

def train(student, teacher, strategy, epochs=2, **more):
    return distill(
        student, teacher, DataLoader(data, 8, shuffle=True), DataLoader(data, 16), epochs=epochs,
        optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        accelerator="cpu", devices=2, strategy=strategy, enable_progress_bar=False, **more)
"""

TRAINING = """
for granularity in ("tensor", "channel"):
    plain = train(*models(granularity), "ddp")
    shards = train(*models(granularity), sharded())
    # Uneven shards too: 3 rows over 2 processes. Noise and data of a process are the same.
    for (name, a), b in zip(plain.named_parameters(), shards.parameters()):
        assert hasattr(b, "full_tensor"), f"{name} is not sharded"
        torch.testing.assert_close(a.detach(), whole(b), rtol=1e-4, atol=1e-5)
    assert clip_weights(shards) == 0, "a weight left its range"
    run = dict(eta=[0, 0.1], instances=3, progress=False)
    a, b = evaluate(plain, [(x, labels)], **run), evaluate(shards, [(x, labels)], **run)
    assert [l.values for l in a.levels] == [l.values for l in b.levels]
    before = whole(shards.get_submodule("0").weight).clone()
    train(shards, models(granularity)[1], sharded(), 1)
    assert not torch.equal(whole(shards.get_submodule("0").weight), before), "trained copies"
"""

CHIPS = """
for granularity in ("tensor", "channel"):
    model = train(*models(granularity), sharded(), 1)
    plain = models(granularity)[0]
    optimizer = torch.optim.SGD(model.parameters(), 100.0)
    program(model, 3)
    with torch.no_grad():
        model.eval()(x)
    model.train()(x).square().sum().backward()
    optimizer.step()
    for change in (optimizer.step, lambda: clip_weights(model)):
        change()
        try:
            model.eval()(x)
        except ChipError as error:
            assert "weights changed" in str(error)
        else:
            raise SystemExit("a chip outlived its weights")
        # FSDP believes itself in the pass that failed until one succeeds.
        with torch.no_grad():
            model.train()(x)
        program(model, 3)
    assert clip_weights(model) == 0
    # One step of 100 throws weights on both sides; on the plain model the same clipping.
    optimizer.step()
    for (name, p), q in zip(plain.named_parameters(), model.parameters()):
        p.data.copy_(whole(q))
    held = torch.tensor(clip_weights(model))
    torch.distributed.all_reduce(held)
    assert held == clip_weights(plain) > 0
    for (name, p), q in zip(plain.named_parameters(), model.parameters()):
        assert torch.equal(p, whole(q)), name
"""

RESUMED = """
class Stop(L.Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True

train(*models("tensor"), sharded(), resume=out / "a.ckpt", callbacks=[Stop()])
resumed = train(*models("tensor"), sharded(), resume=out / "a.ckpt")
through = train(*models("tensor"), sharded())
for (name, a), b in zip(resumed.named_parameters(), through.parameters()):
    assert torch.equal(whole(a), whole(b)), name
"""

REFUSED = """
try:
    train(*models("tensor"), sharded(1, 2))
except TrainingError as error:
    assert "tensor_parallel_size=1" in str(error)
else:
    raise SystemExit("products were split")

try:
    train(*models("tensor"), sharded(), ema=0.9)
except TrainingError as error:
    assert "ema" in str(error)
else:
    raise SystemExit("shards were averaged")

from torch.distributed.fsdp import FullyShardedDataParallel
model = models("tensor")[0]
FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
for change in (lambda: program(model, 3), lambda: clip_weights(model)):
    try:
        change()
    except ChipError as error:
        assert "fully_shard" in str(error) and "region '0'" in str(error)
    else:
        raise SystemExit("a flat part passed for a weight")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_train_measure_resume_and_refuse(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    # One start of two processes for all, because that is most of the time.
    script.write_text(SETUP + TRAINING + CHIPS + RESUMED + REFUSED)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
