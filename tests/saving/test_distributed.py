"""torch.distributed.checkpoint of fully sharded models (FSDP2), on two gloo processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
from pathlib import Path
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from analogize import analogize, load, noise_mode, save
from analogize.errors import SavingError

out, rank = Path(sys.argv[1]), int(__import__("os").environ["RANK"])
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

def net(seed):
    torch.manual_seed(seed)
    # Uneven shards too: 3 rows over 2 processes.
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

def sharded(seed, target="pcm_8bit"):
    analog = analogize(net(seed), target, calibration=[x]).eval()
    fully_shard(analog, mesh=mesh)
    return analog

def outputs(model):
    with torch.no_grad(), noise_mode(model, "off"):
        return model(x)

first = sharded(1)
expected = outputs(analogize(net(1), "pcm_8bit", calibration=[x]).eval())
assert torch.equal(outputs(first), expected)
dcp.save({"model": get_model_state_dict(first)}, checkpoint_id=out / "dcp")

# Into another sharded model, and through the model's own state dict.
for how in ("set", "own"):
    again = sharded(2)
    assert not torch.equal(outputs(again), expected)
    state = {"model": get_model_state_dict(again) if how == "set" else again.state_dict()}
    dcp.load(state, checkpoint_id=out / "dcp")
    if how == "set":
        set_model_state_dict(again, state["model"])
    else:
        again.load_state_dict(state["model"])
    assert torch.equal(outputs(again), expected), how

# One process alone, on a plain model.
if rank == 0:
    plain = analogize(net(3), "pcm_8bit", example_inputs=x).eval()
    state = {"model": plain.state_dict()}
    dcp.load(state, checkpoint_id=out / "dcp", no_dist=True)
    plain.load_state_dict(state["model"])
    assert torch.equal(outputs(plain), expected)
dist.barrier()

# Another target, of the same shapes.
other = sharded(4, "paper_resnet32")
state = {"model": get_model_state_dict(other)}
dcp.load(state, checkpoint_id=out / "dcp")
try:
    set_model_state_dict(other, state["model"])
except SavingError as error:
    assert "saved for another target" in str(error)
else:
    raise SystemExit("another target's checkpoint was taken")

# A truncated shard.
if rank == 0:
    shard = next((out / "dcp").glob("__0_*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
dist.barrier()
try:
    dcp.load({"model": get_model_state_dict(sharded(5))}, checkpoint_id=out / "dcp")
except dcp.api.CheckpointException:
    pass
else:
    raise SystemExit("a truncated checkpoint was taken")

# One file of the whole, written by every process, read by any.
save(first, out / f"whole{rank}.safetensors")
assert torch.equal(outputs(load(out / f"whole{rank}.safetensors", net(6))), expected)

# Tied weights of which one process holds nothing.
class Tied(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(6, 1), nn.Linear(6, 1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return torch.relu(self.a(x)) + self.b(x)

plain, both = (analogize(Tied(1), "pcm_8bit", calibration=[x]).eval() for _ in range(2))
fully_shard(both, mesh=mesh)
save(both, out / f"tied{rank}.safetensors")
again = load(out / f"tied{rank}.safetensors", Tied(2))
assert again.a.weight is again.b.weight
assert torch.equal(outputs(again), outputs(plain))
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_round_trip_and_refuse(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "script.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
