"""Lightning's checkpoints: modules that rewrite themselves, or were rewritten, come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import analogize, clip_weights, distill, load, noise_mode
from analogize.errors import SavingError
from analogize.saving.lightning import DescribeAnalog

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]

X, Y = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


class Module(L.LightningModule):
    """Digital, as a user has it; ``where`` says when it rewrites its network."""

    def __init__(self, where: str = "nowhere") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net: nn.Module = network()
        if where == "init":
            self.rewrite()

    def rewrite(self) -> None:
        self.net = analogize(self.net, "pcm_8bit", calibration=[X])

    def configure_model(self) -> None:
        if self.hparams["where"] == "configure" and not hasattr(self.net, "report"):
            self.rewrite()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_train_batch_end(self, *args: Any) -> None:
        clip_weights(self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def train(module: L.LightningModule, folder: Path, **more: Any) -> Path:
    checkpoint = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=more.pop("epochs", 1),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint, *more.pop("callbacks", ())],
    )
    trainer.fit(module, DataLoader(TensorDataset(X, Y), 16), **more)
    return folder / "last.ckpt"


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        out: Tensor = model.eval()(X)
        return out


@pytest.mark.parametrize("where", ["init", "configure"])
def test_a_module_that_rewrites_itself_reloads_and_resumes(tmp_path: Path, where: str) -> None:
    module = Module(where)
    file = train(module, tmp_path)

    again = Module.load_from_checkpoint(file)

    assert torch.equal(outputs(again), outputs(module))
    resumed = Module(where)
    train(resumed, tmp_path, ckpt_path=file)  # at its end already: restored, and not trained
    assert torch.equal(outputs(resumed), outputs(module))


def test_a_part_rewritten_from_outside_comes_back_by_load(tmp_path: Path) -> None:
    module = Module()
    module.rewrite()
    file = train(module, tmp_path, callbacks=[DescribeAnalog()])

    again = load(file, Module)

    assert type(again) is Module
    assert torch.equal(outputs(again), outputs(module))
    # Lightning alone does not make it digital in silence.
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Module.load_from_checkpoint(file)
    fresh = Module()
    fresh.rewrite()
    fresh.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    assert torch.equal(outputs(fresh), outputs(module))


def test_a_whole_module_rewritten_stays_one(tmp_path: Path) -> None:
    module = analogize(Module(), "pcm_8bit", calibration=[X], capture="hierarchical")
    assert isinstance(module, Module)
    file = train(module, tmp_path, callbacks=[DescribeAnalog()])

    again = load(file, Module)

    assert isinstance(again, Module)
    assert torch.equal(outputs(again), outputs(module))


def test_a_checkpoint_of_distill_opens(tmp_path: Path) -> None:
    teacher = network()
    student = analogize(teacher, "pcm_8bit", calibration=[X])
    loader = DataLoader(TensorDataset(X, Y), 16)
    distill(
        student,
        teacher,
        loader,
        epochs=1,
        resume=tmp_path / "run",
        accelerator="cpu",
        enable_progress_bar=False,
    )

    again = load(tmp_path / "run", network)

    assert torch.equal(outputs(again), outputs(student))


def test_a_checkpoint_without_description_says_so(tmp_path: Path) -> None:
    module = Module("init")
    file = train(module, tmp_path)

    with pytest.raises(SavingError, match="does not describe its analog parts"):
        load(file, Module)
    (tmp_path / "junk").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SavingError, match="damaged or foreign checkpoint"):
        load(tmp_path / "junk", Module)
