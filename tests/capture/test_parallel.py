"""Two processes: DistributedDataParallel and fully sharded parameters around a rewritten model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import copy, sys
from contextlib import nullcontext
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from analogize import analogize, noise_mode, summary
from analogize.targets.spec import Target

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/meet")
target = Target.model_validate({
    "schema": 1, "name": "noisy", "weights": {"range": {"kind": "absmax"}, "bits": 4},
    "noise": [{"model": "gaussian", "eta": 0.1}]})

class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(8, 8)
        if kind == "intercept":
            self.mix = nn.Parameter(torch.randn(8, 8) / 3)
    def forward(self, x):
        if self.kind != "fx" and x.isnan().any():
            return x
        y = torch.relu(self.fc(x))
        return y @ self.mix if self.kind == "intercept" else y

class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.head = Block(kind), Block(kind), nn.Linear(8, 2)
    def forward(self, x):
        return self.head(self.b(self.a(x)))

def train(analog, wrap, inputs):
    model = copy.deepcopy(analog)
    with noise_mode(model, "off") if hasattr(model, "report") else nullcontext():
        wrapped = wrap(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
        for step in range(3):
            optimizer.zero_grad()
            wrapped(inputs if wrap is plain else inputs.chunk(2)[rank]).square().mean().backward()
            optimizer.step()
        return wrapped(inputs).detach()

def plain(model):
    return model

def sharded(model):
    mesh = init_device_mesh("cpu", (2,))
    if summary(model).capture != "fx":
        for part in (model.a, model.b):
            fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)

for kind in ("fx", "hierarchical", "intercept"):
    torch.manual_seed(0)
    inputs = torch.randn(8, 8)
    model = Model(kind)
    analog = analogize(
        model, target, example_inputs=inputs, capture="fx" if kind == "fx" else "auto"
    )
    assert summary(analog).capture == kind, summary(analog).capture
    expected = train(analog, plain, inputs)
    for wrap in (DistributedDataParallel, sharded):
        torch.testing.assert_close(train(analog, wrap, inputs), expected, rtol=1e-4, atol=1e-5)
    # Weights of 4 bits: a product that slipped past its array would show.
    assert not torch.allclose(expected, train(model, plain, inputs), rtol=1e-2, atol=1e-2)
print("equal")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_wrapped_training_is_the_plain_one(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "equal" in output
