"""timm's models, and the parts that its training and validation scripts are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, load, noise_mode, save, summary
from analogize.errors import SavingError

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1])


def fresh() -> nn.Module:
    model: nn.Module = timm.create_model("test_resnet", num_classes=2)
    return model


def rewritten(target: str = "pcm_8bit") -> nn.Module:
    return analogize(fresh(), target, calibration=[X])


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        out: Tensor = model.eval()(X)
        return out


def steps(model: nn.Module, count: int, **more: Any) -> Any:
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    optimizer, ema = create_optimizer_v2(model, opt="sgd", lr=0.01), ModelEmaV3(model)
    for _ in range(count):
        loss = nn.functional.cross_entropy(model.train()(X), Y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
    return optimizer, ema


def test_a_checkpoint_of_timms_brings_training_back(tmp_path: Path) -> None:
    from timm.models import resume_checkpoint
    from timm.utils import CheckpointSaver, accuracy

    model = rewritten()
    assert summary(model).converted_share > 0.99
    optimizer, ema = steps(model, 2)
    CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path)).save_checkpoint(0, 1.0)

    again = rewritten()
    resume_checkpoint(again, str(tmp_path / "last.pth.tar"))

    assert torch.equal(outputs(again), outputs(model))
    assert not torch.equal(outputs(ema.module), outputs(model))
    (top1,) = accuracy(outputs(again), Y)
    assert 0 <= float(top1) <= 100
    with pytest.raises(SavingError, match=r"saved for (another|the) target"):
        resume_checkpoint(rewritten("reram_4bit"), str(tmp_path / "last.pth.tar"))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        resume_checkpoint(fresh(), str(tmp_path / "last.pth.tar"))


def test_one_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = rewritten()

    again = load(save(model, tmp_path / "model"), fresh)

    assert torch.equal(outputs(again), outputs(model))
