"""Every way to keep a rewritten model, on another device: the bits that were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from analogize import analogize, load

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]

Outputs = Callable[[Any, torch.dtype], Tensor]
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
TARGET = "pcm_8bit"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(torch.relu(self.a(x)))
        return out


class Module(L.LightningModule):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.net = analogize(Net(), target, calibration=[X]).eval()


# The same files, read into models that were made without values (on the meta device), which come
# from the file to ``place``.


def hollow() -> nn.Module:
    with torch.device("meta"):
        return Net()


def hollow_analog() -> nn.Module:
    return analogize(hollow(), TARGET).eval()


def place_state(folder: Path, place: str) -> nn.Module:
    model = hollow_analog()
    state = torch.load(folder / "state.pt", weights_only=True, map_location=place)
    model.load_state_dict(state, assign=True)
    return model


def place_safetensors(folder: Path, place: str) -> nn.Module:
    model = hollow_analog()
    model.load_state_dict(load_file(folder / "state.safetensors", device=place), assign=True)
    return model


def place_file(folder: Path, place: str) -> nn.Module:
    return load(folder / "model.safetensors", hollow, device=place)


def place_lightning(folder: Path, place: str) -> nn.Module:
    """Lightning makes the module itself, with values."""
    return Module.load_from_checkpoint(folder / "last.ckpt", map_location=place, target=TARGET).net


def place_folder(folder: Path, place: str) -> nn.Module:
    """So does analogize's from_pretrained."""
    from analogize.saving.huggingface import from_pretrained

    return from_pretrained(folder, device=place)


def place_accelerate(folder: Path, place: str) -> nn.Module:
    import accelerate

    model = hollow_analog()
    accelerate.load_checkpoint_in_model(model, folder, device_map={"": place})
    return model


def place_adapted(folder: Path, place: str) -> nn.Module:
    import peft

    base: Any = load(folder / "base.safetensors", hollow, device=place)
    model = peft.PeftModel.from_pretrained(base, folder / "adapter", torch_device=place)
    return model  # type: ignore[no-any-return]


def place_sharded(folder: Path, place: str) -> nn.Module:
    import torch.distributed.checkpoint as dcp

    model = hollow_analog().to_empty(device=place)
    state = {"model": model.state_dict()}
    dcp.load(state, checkpoint_id=folder / "dcp", no_dist=True)
    model.load_state_dict(state["model"])
    return model


PLACES: dict[str, Callable[[Path, str], nn.Module]] = {
    "state dict": place_state,
    "safetensors": place_safetensors,
    "save and load": place_file,
    "Lightning": place_lightning,
    "Hugging Face": place_folder,
    "accelerate": place_accelerate,
    "PEFT": place_adapted,
    "FSDP2": place_sharded,
}


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_another_device_holds_the_same_bits(
    way: str, place: str, tmp_path: Path, ways: Mapping[str, Any], outputs: Outputs
) -> None:
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = ways[way].make(1, TARGET, torch.float32)
    expected = outputs(model, torch.float32)
    written = {name: value.clone() for name, value in model.state_dict().items()}
    ways[way].write(model, tmp_path)

    again = PLACES[way](tmp_path, place).eval()

    read = again.state_dict()
    assert read.keys() == written.keys()
    for name, value in read.items():
        assert value.device.type == place, name
        assert torch.equal(value.cpu(), written[name]), name
    assert torch.equal(outputs(again.to("cpu"), torch.float32), expected)
