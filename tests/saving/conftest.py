"""Every way to keep a rewritten model: how a model is written, and read again.

Run as a script it reads what a test wrote: ``conftest.py FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from analogize import analogize, load, noise_mode, save
from analogize.errors import SavingError

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(90, (4, 12), generator=torch.Generator().manual_seed(0))
TARGET = "pcm_8bit"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.a(x)))
        return out


def made(seed: int, target: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return analogize(Net().to(dtype), target, calibration=[X.to(dtype)]).eval()


def outputs_of(model: Any, dtype: torch.dtype) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        if hasattr(model, "config"):
            return model.eval()(IDS).logits  # type: ignore[no-any-return]
        return model.eval()(X.to(dtype))  # type: ignore[no-any-return]


# Plain files: a fresh model of the target takes what they hold.


def write_state(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "state.pt")


def read_state(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    model = made(2, target, dtype)
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return model


def write_safetensors(model: nn.Module, folder: Path) -> None:
    save_file(model.state_dict(), folder / "state.safetensors")


def read_safetensors(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    model = made(2, target, dtype)
    model.load_state_dict(load_file(folder / "state.safetensors"))
    return model


# Files that bring their target.


def write_file(model: nn.Module, folder: Path) -> None:
    save(model, folder / "model.safetensors")


def read_file(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    return load(folder / "model.safetensors", Net())


class Module(L.LightningModule):
    def __init__(self, target: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.net = made(2, target, dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


def write_lightning(model: nn.Module, folder: Path) -> None:
    module = Module(TARGET)
    module.net = model
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=0, enable_model_summary=False, **quiet)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "last.ckpt")


def read_lightning(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    return Module.load_from_checkpoint(folder / "last.ckpt", target=target, dtype=dtype)


def bert(dtype: torch.dtype) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=90, intermediate_size=32, **sizes)
    return transformers.BertForSequenceClassification(config).to(dtype).eval()


def make_bert(seed: int, target: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return analogize(bert(dtype), target, calibration=[{"input_ids": IDS}])


def write_folder(model: nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]


def read_folder(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    from analogize.saving.huggingface import from_pretrained

    return from_pretrained(folder)


def write_accelerate(model: nn.Module, folder: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True).save_model(model, folder)


def read_accelerate(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    import accelerate

    model = made(2, target, dtype)
    accelerate.load_checkpoint_in_model(model, folder, device_map={"": "cpu"})
    return model


def make_adapted(seed: int, target: str, dtype: torch.dtype) -> nn.Module:
    peft = pytest.importorskip("peft")
    base = made(seed, target, dtype)
    config = peft.LoraConfig(target_modules=["a"], init_lora_weights=False)
    return peft.get_peft_model(base, config).eval()  # type: ignore[no-any-return]


def write_adapted(model: Any, folder: Path) -> None:
    model.save_pretrained(folder / "adapter")
    save(model.unload(), folder / "base.safetensors")


def read_adapted(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    import peft

    base = load(folder / "base.safetensors", Net())
    return peft.PeftModel.from_pretrained(base, folder / "adapter")  # type: ignore[no-any-return]


def write_sharded(model: nn.Module, folder: Path) -> None:
    """One process is enough for the file; test_distributed.py has two."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "dcp")
    finally:
        dist.destroy_process_group()


def read_sharded(folder: Path, target: str, dtype: torch.dtype) -> nn.Module:
    import torch.distributed.checkpoint as dcp

    model = made(2, target, dtype)
    state = {"model": model.state_dict()}
    if target != TARGET:  # it has fewer ranges, which the reader would miss first
        state["model"] = {k: v for k, v in state["model"].items() if ".dac" not in k}
    dcp.load(state, checkpoint_id=folder / "dcp", no_dist=True)
    model.load_state_dict(state["model"])
    return model


class Way(NamedTuple):
    """How a model is written and read, and what a file cut short and another target give.

    ``brings`` says that the file holds its target, so that no other can be asked for.
    """

    write: Callable[[Any, Path], None]
    read: Callable[[Path, str, torch.dtype], nn.Module]
    file: str
    cut: tuple[type[BaseException], str]
    brings: bool = False
    make: Callable[[int, str, torch.dtype], nn.Module] = made


TORN = (SafetensorError, "deserializing header|incomplete|Error while")
ZIP = (RuntimeError, "PytorchStreamReader|zip archive")
OURS = (SavingError, r"\.safetensors")
DISTRIBUTED = (CheckpointException, "zip archive")
WAYS = {
    "state dict": Way(write_state, read_state, "state.pt", ZIP),
    "safetensors": Way(write_safetensors, read_safetensors, "state.safetensors", TORN),
    "save and load": Way(write_file, read_file, "model.safetensors", OURS, True),
    "Lightning": Way(write_lightning, read_lightning, "last.ckpt", ZIP),
    "Hugging Face": Way(write_folder, read_folder, "model.safetensors", OURS, True, make_bert),
    "accelerate": Way(write_accelerate, read_accelerate, "model.safetensors", TORN),
    "PEFT": Way(write_adapted, read_adapted, "base.safetensors", OURS, True, make_adapted),
    "FSDP2": Way(write_sharded, read_sharded, "dcp/__0_0.distcp", DISTRIBUTED),
}
KEPT = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The name of a way, each in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def ways() -> dict[str, Way]:
    """All of them, by name."""
    return WAYS


@pytest.fixture(scope="session")
def outputs() -> Callable[[Any, torch.dtype], Tensor]:
    """What a model of any way gives without noise."""
    return outputs_of


def _read_all(place: Path) -> dict[str, Tensor]:
    found = {}
    for folder in (f for f in place.iterdir() if f.is_dir()):
        way, _, kind = folder.name.partition(", ")
        found[folder.name] = outputs_of(WAYS[way].read(folder, TARGET, KEPT[kind]), KEPT[kind])
    return found


if __name__ == "__main__":
    given = Path(sys.argv[1])
    torch.save(_read_all(given), given / "outputs.pt")
