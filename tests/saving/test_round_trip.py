"""A saved model loads bit for bit, in this process and in a fresh one, or says why not."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from analogize import Target, analogize, load, noise_mode, program, save, summary
from analogize.devices.custom import resolve
from analogize.errors import SavingError
from analogize.saving.container import read_manifest


class Net(nn.Module):
    """A network of a kind that users have: convolution, BatchNorm, a head, an attribute."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Tied(nn.Module):
    """Two layers on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(x)))
        return out


class Whole(nn.Module):
    """Two parts that are rewritten for different targets, and a digital layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.middle = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.middle(self.stem(x)))
        return out


def clean(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        out: Tensor = model(x)
        return out


def on_chip(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad(), noise_mode(model, "programmed"):
        out: Tensor = model(x)
        return out


@pytest.mark.parametrize("target", ["ideal", "pcm_8bit", "pcm_joshi2020", "isaac"])
@pytest.mark.parametrize("capture", ["auto", "fx", "hierarchical"])
def test_a_model_and_its_chip_come_back_bit_for_bit(
    tmp_path: Path, images: Tensor, target: str, capture: Any
) -> None:
    analog = analogize(Net(), target, calibration=[images], capture=capture).eval()
    program(analog, 3)

    save(analog, tmp_path / "net.safetensors", chip=True)
    torch.manual_seed(1)
    loaded = load(tmp_path / "net.safetensors", Net())

    assert torch.equal(clean(loaded, images), clean(analog, images))
    assert torch.equal(on_chip(loaded, images), on_chip(analog, images))
    assert str(summary(loaded)) == str(summary(analog))
    assert loaded.state_dict().keys() == analog.state_dict().keys()


def test_a_fresh_process_gives_the_same_bits(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(7, 6)
    analog = analogize(model, "pcm_8bit", calibration=[x]).eval()
    program(analog, 5)
    save(analog, tmp_path / "m.safetensors", chip=True)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; from torch import nn; from analogize import load\n"
        "m = load('m.safetensors', nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))\n"
        "torch.save(m(torch.load('x.pt')).detach(), 'y.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

    assert torch.equal(torch.load(tmp_path / "y.pt"), on_chip(analog, x))


def test_parts_of_different_targets_come_back_in_their_places(tmp_path: Path) -> None:
    model, x = Whole(), torch.randn(16, 8)
    model.stem = analogize(model.stem, "pcm_8bit", calibration=[x])
    model.head = analogize(model.head, "reram_4bit", calibration=[x])
    model.eval()
    save(model, tmp_path / "whole.safetensors")

    loaded = load(tmp_path / "whole.safetensors", Whole)

    assert torch.equal(clean(loaded, x), clean(model, x))
    assert type(loaded) is Whole
    assert loaded.stem.report.target == "pcm_8bit"
    assert loaded.head.report.target == "reram_4bit"


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    x = torch.randn(9, 5)
    analog = analogize(Tied(), "pcm_8bit", calibration=[x]).eval()
    save(analog, tmp_path / "tied.safetensors")

    loaded = load(tmp_path / "tied.safetensors", Tied())

    assert loaded.get_parameter("a.weight") is loaded.get_parameter("b.weight")
    assert torch.equal(clean(loaded, x), clean(analog, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_not_rounded(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.randn(9, 6, dtype=dtype)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)).to(dtype)
    analog = analogize(model, "pcm_8bit", calibration=[x]).eval()
    save(analog, tmp_path / "m.safetensors")

    loaded = load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)))

    assert loaded.get_parameter("0.weight").dtype == dtype
    assert torch.equal(clean(loaded, x), clean(analog, x))


def test_what_was_chosen_digital_stays_so(tmp_path: Path, images: Tensor) -> None:
    analog = analogize(Net(), "pcm_8bit", calibration=[images], digital=["conv"]).eval()
    save(analog, tmp_path / "net.safetensors")

    loaded = load(tmp_path / "net.safetensors", Net())

    assert [d.name for d in summary(loaded).digital] == ["conv"]
    assert torch.equal(clean(loaded, images), clean(analog, images))


def test_a_target_of_ones_own_travels_in_full(
    tmp_path: Path, make_target: Callable[..., Target]
) -> None:
    target = make_target(noise=[{"model": "fixed_snr", "ratio": 0.0123}])
    x = torch.randn(4, 3)
    save(analogize(nn.Sequential(nn.Linear(3, 3)), target), tmp_path / "m.safetensors")

    loaded = load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(3, 3)))

    assert loaded.report.settings == target
    program(loaded.eval(), 1)
    assert not torch.equal(on_chip(loaded, x), clean(loaded, x))


def test_the_model_given_stays_as_it_was(tmp_path: Path, images: Tensor) -> None:
    save(analogize(Net(), "pcm_8bit", calibration=[images]), tmp_path / "net.safetensors")
    fresh = Net()
    before = copy.deepcopy(fresh.state_dict())

    load(tmp_path / "net.safetensors", fresh)

    assert type(fresh) is Net
    assert fresh.state_dict().keys() == before.keys()
    assert all(torch.equal(fresh.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Net(width=7), r"'conv\.weight' has shape \(7, 3, 3, 3\) here and \(6, 3, 3, 3\)"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), r"it has no 'conv\.weight'"),
        (lambda: 3, "a digital model is needed, not a int"),
    ],
)
def test_another_model_is_refused_by_its_first_difference(
    tmp_path: Path, images: Tensor, other: Any, message: str
) -> None:
    save(analogize(Net(), "pcm_8bit", calibration=[images]), tmp_path / "net.safetensors")

    with pytest.raises(SavingError, match=message):
        load(tmp_path / "net.safetensors", other)


def test_damaged_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save(analogize(nn.Sequential(nn.Linear(3, 3)), "ideal"), file)
    whole = file.read_bytes()
    fresh = nn.Sequential(nn.Linear(3, 3))
    for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(SavingError, match="cut: no file that analogize"):
            load(tmp_path / "cut", fresh)
    with pytest.raises(SavingError, match="there is no such file"):
        load(tmp_path / "missing", fresh)
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(SavingError, match="did not write"):
        load(tmp_path / "foreign", fresh)
    manifest = json.loads(read_manifest(file).model_dump_json()) | {"format": 2}
    save_file({"a": torch.zeros(1)}, tmp_path / "newer", {"analogize": json.dumps(manifest)})
    with pytest.raises(SavingError, match="written in format 2"):
        load(tmp_path / "newer", fresh)


def test_functions_run_only_where_they_are_allowed(
    tmp_path: Path, make_target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_noise_of_saving.py").write_text(
        "def none(weights, w_min, w_max, generator):\n    return weights * 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "own_noise_of_saving:none"
    target = make_target(noise=[{"model": "custom", "function": name}])
    model = nn.Sequential(nn.Linear(3, 3))
    save(analogize(model, target), tmp_path / "m.safetensors")

    for refused in (False, ["other:f"]):
        with pytest.raises(SavingError, match="call load with allow_functions="):
            load(tmp_path / "m.safetensors", model, allow_functions=refused)
    for allowed in (True, [name]):
        load(tmp_path / "m.safetensors", model, allow_functions=allowed)
    # The file on a machine that does not have the function.
    (tmp_path / "own_noise_of_saving.py").unlink()
    monkeypatch.delitem(sys.modules, "own_noise_of_saving")
    importlib.invalidate_caches()
    resolve.cache_clear()
    with pytest.raises(SavingError, match="own_noise_of_saving"):
        load(tmp_path / "m.safetensors", model, allow_functions=True)


def test_saving_says_what_is_missing(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(SavingError, match="has no analog part"):
        save(model, tmp_path / "m")
    analog = analogize(model, "pcm_8bit", calibration=[torch.randn(4, 3)])
    with pytest.raises(SavingError, match="region '0': no chip is programmed"):
        save(analog, tmp_path / "m", chip=True)
    with pytest.raises(SavingError, match="does not exist"):
        save(analog, tmp_path / "no" / "m")
    assert list(tmp_path.iterdir()) == []


def test_buffers_that_no_state_dict_has_keep_their_type(tmp_path: Path) -> None:
    """As rotary embeddings have them: made with the model, cast with it, never saved."""

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.register_buffer("frequencies", 1 / 3 ** torch.arange(6), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x * self.frequencies)
            return out

    x = torch.randn(16, 6, dtype=torch.bfloat16)
    analog = analogize(Rotary().to(torch.bfloat16), "pcm_8bit", calibration=[x]).eval()
    save(analog, tmp_path / "m")

    assert torch.equal(clean(load(tmp_path / "m", Rotary()), x), clean(analog, x))
    with torch.device("meta"):
        nowhere = Rotary()
    with pytest.raises(SavingError, match="'frequencies' is computed where the model is made"):
        load(tmp_path / "m", nowhere)
