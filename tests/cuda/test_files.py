"""Files of a model on the device are those of the CPU, and what is read is where it belongs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import (
    analogize,
    bias_variance,
    census,
    digital_state,
    erase,
    evaluate,
    export_onnx,
    load,
    load_chip,
    load_onnx,
    noise_mode,
    program,
    read_chip,
    read_regions,
    regions,
    save,
    save_chip,
    sensitivity,
    summary,
    to_digital,
    write_report,
)
from analogize.crossbar.ops import operators

Batches = list[tuple[Tensor, Tensor]]
Make = Callable[..., Any]
TARGETS = ["pcm_8bit", "pcm_joshi2020", "afm_2025", "isaac"]
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    return model(x.to(next(model.parameters()).device)).cpu()  # type: ignore[no-any-return]


@pytest.fixture
def single(network: nn.Module, batches: Batches, pair: Make) -> Callable[[str], Any]:
    """A pair in float32, as files mostly are, both programmed as one chip, and a batch."""

    def make(target: str) -> tuple[nn.Module, nn.Module, Tensor]:
        here, there = pair(network.float(), target, [(x.float(), y) for x, y in batches])
        for model in (here, there):
            program(model, 3)
        return here, there, batches[0][0].float()

    return make


@pytest.mark.parametrize("target", TARGETS)
def test_a_saved_model_is_the_cpus(
    target: str,
    network: nn.Module,
    single: Callable[[str], Any],
    device: torch.device,
    tmp_path: Path,
) -> None:
    here, there, x = single(target)
    paths = [
        save(model, tmp_path / f"{name}.safetensors", chip=True)
        for name, model in (("here", here), ("there", there))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    back = load(paths[1], copy.deepcopy(network)).eval()
    assert torch.equal(outputs(back, x), outputs(here, x))
    again = load(paths[0], copy.deepcopy(network), device=device).eval()
    assert all(t.device == device for t in again.parameters())
    assert torch.equal(outputs(again, x), outputs(there, x))


@pytest.mark.parametrize("target", TARGETS)
def test_state_dicts_go_both_ways(
    target: str, network: nn.Module, batches: Batches, pair: Make, tmp_path: Path
) -> None:
    here, there = pair(network, target, batches)
    x = batches[0][0]
    for source, goal in ((here, there), (there, here)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.mul_(0.9)
        torch.save(source.state_dict(), tmp_path / "state.pt")
        goal.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        goal.load_state_dict(source.state_dict())
        program(source, 1)
        program(goal, 1)
        torch.testing.assert_close(outputs(goal, x), outputs(source, x), **CLOSE)


@pytest.mark.parametrize("form", ["chip.npz", "chip"])
@pytest.mark.parametrize("target", ["pcm_8bit", "pcm_joshi2020", "isaac"])
def test_a_chip_that_was_read_is_the_cpus(
    target: str, form: str, single: Callable[[str], Any], tmp_path: Path
) -> None:
    here, there, x = single(target)
    mine, theirs = read_chip(here), read_chip(there)
    for name in mine:
        # Without devices a chip is what its weights miss.
        for part in ("deviation",) if target == "pcm_8bit" else ("plus", "minus"):
            one, other = getattr(theirs[name], part), getattr(mine[name], part)
            np.testing.assert_array_equal(one, other)
    save_chip(theirs, tmp_path / form)
    before = outputs(there, x)
    erase(there)
    program(there, load_chip(tmp_path / form))
    assert torch.equal(outputs(there, x), before)


@pytest.mark.parametrize(
    ("target", "noise"),
    [("pcm_8bit", 5), ("pcm_8bit", "runtime"), ("pcm_joshi2020", "programmed")],
)
def test_an_exported_file_is_the_cpus(
    target: str,
    noise: Literal["runtime", "programmed"] | int,
    single: Callable[[str], Any],
    device: torch.device,
    tmp_path: Path,
) -> None:
    here, there, x = single(target)
    # A sample on the CPU comes to the model by itself, as calibration data do.
    sample = x if noise == 5 else x.to(device)
    export_onnx(here, tmp_path / "here.onnx", x, noise=noise)
    export_onnx(there, tmp_path / "there.onnx", sample, noise=noise)
    assert (tmp_path / "there.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()
    assert all(each.weight is not None for each in read_regions(tmp_path / "there.onnx"))
    session = onnxruntime.InferenceSession(
        tmp_path / "there.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.isfinite(found).all()
    if noise == "programmed":
        # float32 sums of 150 terms; near an edge, a step of an 8-bit converter.
        difference = np.abs(found - outputs(there, x).numpy())
        assert difference.mean() < 1e-3 * np.abs(found).max()


def test_a_file_is_read_onto_the_device(
    single: Callable[[str], Any], device: torch.device, tmp_path: Path
) -> None:
    here, there, x = single("pcm_8bit")
    export_onnx(there, tmp_path / "model.onnx", x.to(device))
    read = load_onnx(tmp_path / "model.onnx").eval()
    moved = copy.deepcopy(read).to(device)
    with noise_mode(read, "off"), noise_mode(moved, "off"), noise_mode(here, "off"):
        assert torch.equal(outputs(read, x), outputs(here, x))
        difference = (outputs(moved, x) - outputs(here, x)).abs()
        assert difference.mean() < 1e-3 * outputs(here, x).abs().max()


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_told_of_a_model_is_the_same(
    target: str,
    network: nn.Module,
    batches: Batches,
    pair: Make,
    device: torch.device,
    tmp_path: Path,
) -> None:
    here, there = pair(network, target, batches)
    x = batches[0][0]
    assert str(summary(there)) == str(summary(here))
    moved = analogize(copy.deepcopy(network).to(device), target, batches)
    assert [r.name for r in regions(moved)] == [r.name for r in regions(here)]
    assert summary(moved).converted_share == summary(here).converted_share
    assert [r.macs for r in regions(there)] == [r.macs for r in regions(here)]
    for inputs in (x, x.to(device)):
        assert census(there, inputs).macs == census(here, x).macs
    assert repr(there) == repr(here)
    if target == "pcm_joshi2020":
        write_report(
            tmp_path / "report.html",
            there,
            evaluation=evaluate(there, batches, instances=2, progress=False),
            decomposition=bias_variance(there, batches, instances=3),
            sensitivity=sensitivity(there, batches, instances=2, progress=False),
        )
        assert "</html>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("weights", ["clean", "chip"])
def test_the_way_back_to_digital(
    weights: Literal["clean", "chip"],
    network: nn.Module,
    batches: Batches,
    pair: Make,
    device: torch.device,
) -> None:
    here, there = pair(network, "paper_resnet32", batches)
    for model in (here, there):
        program(model, 2)
    digital = to_digital(there, weights=weights)
    assert all(t.device == device for t in digital.parameters())
    x = batches[0][0]
    expected = to_digital(here, weights=weights)
    torch.testing.assert_close(outputs(digital.eval(), x), outputs(expected.eval(), x), **CLOSE)
    # A state dict is for a model anywhere.
    copy.deepcopy(network).load_state_dict(digital_state(there, weights=weights))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copied", "pickled"]
)
def test_a_copy_holds_the_same_chip_on_the_same_device(
    duplicate: Callable[[nn.Module], nn.Module], single: Callable[[str], Any], device: torch.device
) -> None:
    _, there, x = single("pcm_joshi2020")
    twin = duplicate(there)
    assert all(t.device == device for t in twin.parameters())
    assert torch.equal(outputs(twin, x), outputs(there, x))
    with torch.no_grad():
        next(iter(operators(twin))).stored.value().mul_(2)
    program(twin, 3)
    assert not torch.equal(outputs(twin, x), outputs(there, x)), "its weights are its own"


def test_moving_to_and_fro_changes_no_bit(single: Callable[[str], Any]) -> None:
    here, there, x = single("pcm_8bit")
    expected = outputs(here, x)
    assert torch.equal(outputs(there.cpu(), x), expected)
    state = there.state_dict()
    assert all(torch.equal(state[k], v) for k, v in here.state_dict().items())
