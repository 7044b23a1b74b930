"""Every target and kind of layer: the chip and the outputs of the CPU, on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, census, noise_mode, program, read_chip
from analogize.crossbar.ops import operators
from analogize.targets import load_target, names
from analogize.targets.noise import ReadNoise

# Sums in another order: float64's 1e-16, times the few hundred terms of a sum, times some layers.
# A converter's decision flips where a value lies so near to an edge, once in a billion values.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
LAYERS = ["strided", "depthwise", "sequence", "transposed", "linear", "LSTM", "transformer"]
MORE = [*LAYERS, "grouped", "GRU", "attention"]


class First(nn.Module):
    """The first output of a layer that has several."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(*[x] * self.times)[0]
        return y


def layer(name: str) -> tuple[nn.Module, Tensor]:
    """A small model with that layer, and a batch for it."""
    torch.manual_seed(0)
    made: dict[str, Callable[[], nn.Module]] = {
        "strided": lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 4, 2, groups=2, bias=False),
        ),
        "grouped": lambda: nn.Conv2d(4, 6, 3, padding="same", groups=2, dilation=2),
        "depthwise": lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 5, 1)
        ),
        "sequence": lambda: nn.Conv1d(4, 5, 3, padding=2, padding_mode="circular"),
        "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        "linear": lambda: nn.Sequential(nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 4)),
        "LSTM": lambda: First(nn.LSTM(6, 5, batch_first=True, bidirectional=True)),
        "GRU": lambda: First(nn.GRU(6, 5, num_layers=2)),
        "attention": lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), 3),
        "transformer": lambda: nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
    }
    spatial = {"strided", "grouped", "depthwise", "transposed"}
    shape = (3, 4, 6, 6) if name in spatial else (3, 4, 6)
    return made[name]().double().eval(), torch.randn(shape, dtype=torch.float64)


def chips(model: nn.Module) -> list[Tensor]:
    found = [op.array.chip for op in operators(model)]
    assert found
    assert all(chip is not None for chip in found)
    return [chip.cpu() for chip in found if chip is not None]


def same(here: nn.Module, there: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(chips(here), chips(there), strict=True))


@torch.no_grad()
def compare(here: nn.Module, there: nn.Module, x: Tensor, device: torch.device) -> None:
    found = there(x.to(device))
    assert found.device == device
    torch.testing.assert_close(found.cpu(), here(x), **CLOSE)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("target", names())
def test_a_chip_computes_what_it_computes_on_the_cpu(
    target: str, name: str, pair: Callable[..., Any], device: torch.device
) -> None:
    model, x = layer(name)
    here, there = pair(model, target, [x])
    with noise_mode(here, "off"), noise_mode(there, "off"):
        compare(here, there, x, device)
    for each in (here, there):
        program(each, 7)
    # Not bit by bit, so that a difference in the last bit does not hide one in the products.
    for one, other in zip(chips(here), chips(there), strict=True):
        torch.testing.assert_close(other, one, **CLOSE)
    if not any(isinstance(each, ReadNoise) for each in load_target(target).noise):
        compare(here, there, x, device)  # read noise is drawn on the device, other numbers there


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", names())
def test_a_seed_is_the_same_chip_bit_for_bit(
    target: str, dtype: torch.dtype, pair: Callable[..., Any]
) -> None:
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)).to(dtype)
    here, there = pair(model, target, [torch.randn(32, 96, dtype=dtype)])
    for each in (here, there):
        program(each, 7)
    assert same(here, there)
    program(there, 8)
    if load_target(target).noise:
        assert not same(here, there)


@pytest.mark.parametrize("compensation", ["none", "global", "tile", "column"])
@pytest.mark.parametrize("target", ["pcm_joshi2020", "pcm_hermes", "reram_wan2022"])
def test_a_chip_is_the_same_later(
    target: str, compensation: Any, pair: Callable[..., Any], device: torch.device
) -> None:
    model, x = layer("linear")
    here, there = pair(model, target, [x])
    program(there, 7)
    before = chips(there)
    for each in (here, there):
        program(each, 7, drift_time="1 day", compensation=compensation)
    assert not all(map(torch.equal, before, chips(there)))
    for one, other in zip(chips(here), chips(there), strict=True):
        torch.testing.assert_close(other, one, **CLOSE)
    compare(here, there, x, device)
    program(there, 7)
    assert all(map(torch.equal, before, chips(there)))


@pytest.mark.parametrize("target", ["pcm_joshi2020", "pcm_hermes", "reram_wan2022"])
def test_a_later_chip_is_the_same_bit_for_bit(target: str, pair: Callable[..., Any]) -> None:
    model, x = layer("linear")
    here, there = pair(model.float(), target, [x.float()])
    for each in (here, there):
        program(each, 7, drift_time="1 day")
    assert same(here, there)


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("target", ["pcm_8bit", "afm_2025"])
def test_a_model_on_the_device_is_rewritten_there(
    target: str, name: str, device: torch.device
) -> None:
    model, x = layer(name)
    here = analogize(model, target, [x]).eval()
    moved = copy.deepcopy(model).to(device)
    # Where cuDNN computes a recurrent layer as one operator, its products are there too.
    assert census(moved, x).macs == census(model, x).macs
    for data in ([x], [x.to(device)]):
        there = analogize(moved, target, data).eval()
        tensors = [*there.parameters(), *there.buffers()]
        # A digest is no operand, and may stay where it is.
        assert all(t.device == device for t in tensors if t.is_floating_point())
        found = {k: v.cpu() for k, v in there.state_dict().items()}
        for key, value in here.state_dict().items():
            # Ranges are float32.
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)
        there.load_state_dict(here.state_dict())
        for each in (here, there):
            program(each, 2)
        compare(here, there, x, device)


def test_without_data_too(device: torch.device) -> None:
    model, x = layer("strided")
    here = analogize(model, "paper_resnet32").eval()
    moved = copy.deepcopy(model).to(device)
    there = analogize(moved, "paper_resnet32", example_inputs=x.to(device)).eval()
    assert all(torch.equal(v, there.state_dict()[k].cpu()) for k, v in model.state_dict().items())
    for key, value in here.state_dict().items():
        # Ranges are float32.
        torch.testing.assert_close(there.state_dict()[key].cpu(), value, rtol=1e-6, atol=1e-7)
    there.load_state_dict(here.state_dict())
    for each in (here, there):
        program(each, 2)
    compare(here, there, x, device)


@pytest.mark.parametrize("capture", ["fx", "intercept", "hierarchical"])
def test_with_every_front_end(capture: str, pair: Callable[..., Any], device: torch.device) -> None:
    model, x = layer("depthwise")
    here, there = pair(model, "pcm_joshi2020", [x], capture=capture)
    for each in (here, there):
        program(each, 3)
    compare(here, there, x, device)


def test_a_programmed_chip_moves_with_its_model(device: torch.device) -> None:
    model, x = layer("linear")
    here = analogize(model, "pcm_joshi2020", [x]).eval()
    program(here, 3)
    with torch.no_grad():
        expected = here(x)
        there = copy.deepcopy(here).to(device)
        torch.testing.assert_close(there(x.to(device)).cpu(), expected, **CLOSE)
        assert torch.equal(there.cpu()(x), expected)


@pytest.mark.parametrize("target", ["pcm_joshi2020", "isaac", "reram_wan2022"])
def test_a_chip_that_was_read_programs_the_other_device(
    target: str, pair: Callable[..., Any], device: torch.device
) -> None:
    model, x = layer("linear")
    here, there = pair(model, target, [x])
    program(there, 5)
    chip = read_chip(there)
    program(here, chip)
    for one, other in zip(chips(here), chips(there), strict=True):
        torch.testing.assert_close(other, one, **CLOSE)
    compare(here, there, x, device)
