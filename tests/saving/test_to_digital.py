"""The way back: the original class and a strict state dict, clean or with the chip's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from analogize import Target, analogize, digital_state, load, noise_mode, program, save, to_digital
from analogize.errors import ChipError, SavingError
from analogize.targets import load_target


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return out


def test_clean_weights_give_the_original_back(images: Tensor) -> None:
    model = Net().eval()
    analog = analogize(model, "pcm_8bit", calibration=[images], capture="hierarchical")

    digital = to_digital(analog)

    assert type(digital) is Net
    Net().load_state_dict(digital.state_dict(), strict=True)
    assert torch.equal(digital(images), model(images))
    assert not torch.equal(analog(images), model(images))


@pytest.mark.parametrize("capture", ["fx", "hierarchical"])
def test_the_state_loads_strictly_whatever_the_front_end(images: Tensor, capture: Any) -> None:
    model = Net().eval()
    analog = analogize(model, "pcm_8bit", calibration=[images], capture=capture)

    fresh = Net().eval()
    fresh.load_state_dict(digital_state(analog), strict=True)

    assert torch.equal(fresh(images), model(images))


@pytest.mark.parametrize(("target", "time"), [("paper_resnet32", 0.0), ("drifting", "1 day")])
def test_the_chips_weights_compute_what_the_chip_computes(
    images: Tensor, target: str, time: Any
) -> None:
    """Without converters, the chip's weights in the digital model are the chip."""
    spec: Any = target
    if target == "drifting":
        joshi = load_target("pcm_joshi2020")
        bare = {"dac": {"bits": None}, "adc": {"bits": None}, "array": None}
        spec = Target.model_validate(joshi.model_dump(by_alias=True) | bare)
    analog = analogize(Net(), spec, calibration=[images], capture="hierarchical").eval()
    program(analog, 3, drift_time=time)

    digital = to_digital(analog, weights="chip")

    assert type(digital) is Net
    with torch.no_grad(), noise_mode(analog, "programmed"):
        chip = analog(images)
    # Float32 sums of 27 products, twice, with scales applied before instead of after.
    assert (digital(images) - chip).abs().max() < 1e-5 * chip.abs().max()


def test_without_a_chip_there_are_no_weights_of_one(images: Tensor) -> None:
    analog = analogize(Net(), "pcm_8bit", calibration=[images], capture="hierarchical")

    with pytest.raises(ChipError, match="no chip is programmed"):
        to_digital(analog, weights="chip")


def test_what_cannot_go_back_says_so(images: Tensor) -> None:
    with pytest.raises(SavingError, match="is digital already"):
        to_digital(Net())
    analog = analogize(Net(), "pcm_8bit", calibration=[images], capture="fx")
    with pytest.raises(SavingError, match="captured as one graph"):
        to_digital(analog)
    with pytest.raises(SavingError, match="allowed are 'clean' and 'chip'"):
        to_digital(analog, weights="noisy")  # type: ignore[arg-type]
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))
    x = torch.randn(8, 3)
    analog = analogize(model, "pcm_8bit", calibration=[x], capture="hierarchical").eval()
    program(analog, 1)
    with pytest.raises(SavingError, match="computed from parameters"):
        to_digital(analog, weights="chip")


def test_a_loaded_model_goes_back_too(images: Tensor, tmp_path: Path) -> None:
    analog = analogize(Net(), "pcm_8bit", calibration=[images], capture="hierarchical").eval()
    program(analog, 2)
    save(analog, tmp_path / "m", chip=True)

    digital = to_digital(load(tmp_path / "m", Net()), weights="chip")

    expected = to_digital(analog, weights="chip").state_dict()
    assert all(torch.equal(digital.state_dict()[k], v) for k, v in expected.items())
