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
import torch
import torch.distributed as dist
from torch import nn
from torchmetrics.classification import MulticlassAccuracy
from analogize import analogize, evaluate
from analogize.errors import EvaluationError

out = Path(sys.argv[1])
torch.manual_seed(0)
model = analogize(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), "paper_resnet32")
x = torch.randn(64, 6)
data = [(part, part[:, :3].argmax(1)) for part in x.split(16)]
settings = dict(metric=MulticlassAccuracy(3), eta=[0.0, 0.1], progress=False)
alone = evaluate(model, data, instances=5, **settings)
narrow = evaluate(model, data, precision=0.03, instances=5, **settings)

dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=int(sys.argv[2]),
                        world_size=2)
file = out / "evaluation.json"
first = evaluate(model, data, instances=3, resume=file, **settings)
assert first.levels[1].values == alone.levels[1].values[:3]
together = evaluate(model, data, instances=5, resume=file, **settings)
assert together == alone, (together, alone)
assert evaluate(model, data, precision=0.03, instances=5, **settings) == narrow
assert len(narrow.levels[1].values) > 5

calls = []
class Counted(list):
    def __iter__(self):
        calls.append(1)
        return super().__iter__()
evaluate(model, Counted(data), eta=0.1, instances=4, progress=False)
assert len(calls) == 2, calls
if dist.get_rank() == 0:
    assert evaluate(model, data, instances=5, distributed=False, **settings) == alone

broken = data if dist.get_rank() == 0 else [x]
try:
    evaluate(model, broken, eta=0.1, instances=4, progress=False)
except EvaluationError as error:
    said = str(error)
if dist.get_rank() == 0:
    assert "rank 1 of 2 failed" in said, said
assert "evaluate() needs (inputs, targets)" in said, said
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_share_the_chips_and_both_know_the_single_process_result(tmp_path: Path) -> None:
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT)
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), str(rank)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(e[-3000:] for e in errors)
