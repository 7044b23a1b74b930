"""Every way to keep a rewritten model: bit for bit in a fresh process, in another type, on another
device, or a named error.

Run as a script it reads what the tests wrote: ``test_table.py FOLDER``.
"""

from __future__ import annotations

import os
import subprocess
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
from analogize.errors import AnalogizeError, SavingError

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(90, (4, 12), generator=torch.Generator().manual_seed(0))
TARGET, OTHER = "pcm_8bit", "paper_resnet32"


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


def outputs(model: Any, dtype: torch.dtype) -> Tensor:
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


class Way(NamedTuple):
    """How a model is written, read and placed, and what a file cut short and another target give.

    ``brings`` says that the file holds its target, so that no other can be asked for.
    """

    write: Callable[[Any, Path], None]
    read: Callable[[Path, str, torch.dtype], nn.Module]
    place: Callable[[Path, str], nn.Module]
    file: str
    cut: tuple[type[BaseException], str]
    brings: bool = False
    make: Callable[[int, str, torch.dtype], nn.Module] = made


TORN = (SafetensorError, "deserializing header|incomplete|Error while")
ZIP = (RuntimeError, "PytorchStreamReader|zip archive")
OURS = (SavingError, r"\.safetensors")
DISTRIBUTED = (CheckpointException, "zip archive")
WAYS = {
    "state dict": Way(write_state, read_state, place_state, "state.pt", ZIP),
    "safetensors": Way(
        write_safetensors, read_safetensors, place_safetensors, "state.safetensors", TORN
    ),
    "save and load": Way(write_file, read_file, place_file, "model.safetensors", OURS, True),
    "Lightning": Way(write_lightning, read_lightning, place_lightning, "last.ckpt", ZIP),
    "Hugging Face": Way(
        write_folder, read_folder, place_folder, "model.safetensors", OURS, True, make_bert
    ),
    "accelerate": Way(
        write_accelerate, read_accelerate, place_accelerate, "model.safetensors", TORN
    ),
    "PEFT": Way(
        write_adapted, read_adapted, place_adapted, "base.safetensors", OURS, True, make_adapted
    ),
    "FSDP2": Way(write_sharded, read_sharded, place_sharded, "dcp/__0_0.distcp", DISTRIBUTED),
}
KEPT = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs as they were written, and as one fresh process reads them."""
    place, before = tmp_path_factory.mktemp("ways"), {}
    for way, how in WAYS.items():
        for kind, dtype in KEPT.items():
            name = f"{way}, {kind}"
            (place / name).mkdir()
            try:
                model = how.make(1, TARGET, dtype)
                before[name] = outputs(model, dtype)
                how.write(model, place / name)
            except pytest.skip.Exception as reason:
                before[name] = str(reason)
                (place / name).rmdir()
    command = [sys.executable, __file__, str(place)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return before, torch.load(place / "outputs.pt")


@pytest.mark.parametrize("kind", KEPT)
def test_a_fresh_process_gives_the_same_bits(way: str, kind: str, expected: Any) -> None:
    before, after = (each.get(f"{way}, {kind}") for each in expected)
    if isinstance(before, str):
        pytest.skip(before)
    assert torch.equal(after, before)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_another_device_holds_the_same_bits(way: str, place: str, tmp_path: Path) -> None:
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = WAYS[way].make(1, TARGET, torch.float32)
    expected = outputs(model, torch.float32)
    written = {name: value.clone() for name, value in model.state_dict().items()}
    WAYS[way].write(model, tmp_path)

    again = WAYS[way].place(tmp_path, place).eval()

    read = again.state_dict()
    assert read.keys() == written.keys()
    for name, value in read.items():
        assert value.device.type == place, name
        assert torch.equal(value.cpu(), written[name]), name
    assert torch.equal(outputs(again.to("cpu"), torch.float32), expected)


def test_another_target_is_refused_or_cannot_be_asked_for(way: str, tmp_path: Path) -> None:
    model = WAYS[way].make(1, TARGET, torch.float32)
    expected = outputs(model, torch.float32)
    WAYS[way].write(model, tmp_path)

    if WAYS[way].brings:
        again = WAYS[way].read(tmp_path, OTHER, torch.float32)
        assert torch.equal(outputs(again, torch.float32), expected)
        return

    def use() -> None:
        outputs(WAYS[way].read(tmp_path, OTHER, torch.float32), torch.float32)

    with pytest.raises(AnalogizeError, match=r"saved for (another target|the target)"):
        use()


def test_a_file_cut_short_is_refused(way: str, tmp_path: Path) -> None:
    WAYS[way].write(WAYS[way].make(1, TARGET, torch.float32), tmp_path)
    file = tmp_path / WAYS[way].file
    whole = file.read_bytes()
    kind, message = WAYS[way].cut

    for length in (10, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(kind, match=message):
            WAYS[way].read(tmp_path, TARGET, torch.float32)


def _read_all(place: Path) -> dict[str, Tensor]:
    found = {}
    for folder in (f for f in place.iterdir() if f.is_dir()):
        way, _, kind = folder.name.partition(", ")
        found[folder.name] = outputs(WAYS[way].read(folder, TARGET, KEPT[kind]), KEPT[kind])
    return found


if __name__ == "__main__":
    given = Path(sys.argv[1])
    torch.save(_read_all(given), given / "outputs.pt")
