"""A chip in a saved model's file: it comes back with what it was drawn from, or is not saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analogize import Chip, analogize, load, noise_level, noise_mode, program, read_chip, save
from analogize.chips.parts import take_apart
from analogize.errors import ChipError
from analogize.saving.container import read_manifest


def on_chip(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad(), noise_mode(model, "programmed"):
        out: Tensor = model(x)
        return out


def assert_same_chip(one: Chip, other: Chip) -> None:
    """Equal headers and arrays, NaN for NaN."""
    (header, arrays), (headers, others) = take_apart(one), take_apart(other)
    assert repr(header) == repr(headers)
    assert arrays.keys() == others.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, others[name])


@pytest.mark.parametrize("target", ["pcm_joshi2020", "isaac", "paper_resnet32"])
def test_a_loaded_chip_knows_what_it_was_drawn_from(tmp_path: Path, target: str) -> None:
    x = torch.randn(16, 6)
    make = lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))  # noqa: E731
    analog = analogize(make(), target, calibration=[x]).eval()
    drifted = target == "pcm_joshi2020"
    program(analog, 3, drift_time="1 day" if drifted else 0, cycle=2)
    save(analog, tmp_path / "m", chip=True)

    loaded = load(tmp_path / "m", make())

    assert_same_chip(read_chip(loaded), read_chip(analog))
    chip = read_manifest(tmp_path / "m").chips[0]
    assert (chip.seed, chip.cycle, chip.drift_time) == (3, 2, 86400 if drifted else 0)
    # Saved again, it is the same file.
    save(loaded, tmp_path / "again", chip=True)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_a_chip_of_another_level_of_noise_comes_back(tmp_path: Path) -> None:
    x = torch.randn(16, 6)
    analog = analogize(nn.Sequential(nn.Linear(6, 5)), "pcm_8bit", calibration=[x]).eval()
    with noise_level(analog, 0.2):
        program(analog, 3)
    save(analog, tmp_path / "m", chip=True)

    loaded = load(tmp_path / "m", nn.Sequential(nn.Linear(6, 5)))

    assert_same_chip(read_chip(loaded), read_chip(analog))
    assert loaded[0].analog.array.origin == analog[0].analog.array.origin  # type: ignore[index]


def test_a_measured_chip_comes_back_as_data(tmp_path: Path) -> None:
    x = torch.randn(16, 6)
    analog = analogize(nn.Sequential(nn.Linear(6, 5)), "pcm_joshi2020", calibration=[x]).eval()
    program(analog, 3)
    given = read_chip(analog)
    program(analog, given)
    save(analog, tmp_path / "m", chip=True)

    loaded = load(tmp_path / "m", nn.Sequential(nn.Linear(6, 5)))

    assert torch.equal(on_chip(loaded, x), on_chip(analog, x))
    assert_same_chip(read_chip(loaded), given)


def test_a_stale_chip_is_not_saved(tmp_path: Path) -> None:
    analog = analogize(nn.Sequential(nn.Linear(6, 5)), "paper_resnet32").eval()
    program(analog, 3)
    with torch.no_grad():
        analog.get_parameter("0.weight").mul_(0.5)

    with pytest.raises(ChipError, match="its weights changed"):
        save(analog, tmp_path / "m", chip=True)
