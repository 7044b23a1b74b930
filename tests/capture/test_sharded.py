"""A model whose parameters are shared out is refused, and left as it was, whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from analogize import analogize
from analogize.errors import CaptureError


@pytest.fixture
def _group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/meet")
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("capture", ["auto", "hierarchical", "intercept", "fx"])
def test_a_sharded_model_is_refused_and_left_as_it_was(capture: Any, inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    keys, kinds = list(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(CaptureError, match=r"shared out over processes.*rewrite the model first"):
        analogize(model, "pcm_8bit", [torch.randn(3, 4)], capture=capture, inplace=inplace)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == kinds
    assert not hasattr(model, "report")
