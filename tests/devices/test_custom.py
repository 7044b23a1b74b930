"""Noise models of a user's own package, found by entry point, as pip installs one."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.custom import resolve
from analogize.errors import TargetError
from analogize.targets import load_target

MODULE = """
import torch


def weaker(conductances, drift_time, generator, share=0.5):
    return conductances * (1 - share) ** (drift_time > 0)


def jitter(weights, w_min, w_max, generator, std):
    return torch.randn(weights.shape, generator=generator) * std


not_a_function = 3
"""
ENTRY_POINTS = """
[analogize.noise]
weaker = {module}:weaker
jitter = {module}:jitter
constant = {module}:not_a_function
missing = {module}:nothing_here
broken = {module}.submodule:f
"""
DEVICE = """
schema: 1
weights: {range: {kind: absmax}}
conductance: {g_max: 25.0}
noise: [{model: custom, function: weaker, on: devices, parameters: {share: 0.25}}]
"""
WEIGHTS = """
schema: 1
weights: {range: {kind: absmax}}
noise: [{model: custom, function: jitter, parameters: {std: 0.5}}]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with its metadata on the path, under a name that no other test has imported."""
    module = f"noise_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS.format(module=module))
    monkeypatch.syspath_prepend(str(tmp_path))
    resolve.cache_clear()
    return tmp_path


def chip(file: Path, drift_time: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    analog = analogize(nn.Linear(50, 40, bias=False), load_target(file))
    program(analog, 3, drift_time=drift_time)
    (op,) = operators(analog)
    assert op.array.chip is not None
    return op.array.chip, analog.get_parameter("weight").detach()


def test_on_devices(package: Path) -> None:
    (package / "mine.yaml").write_text(DEVICE)
    programmed, weight = chip(package / "mine.yaml")
    assert_close(programmed, weight)
    later, weight = chip(package / "mine.yaml", 1.0)
    assert_close(later, 0.75 * weight)


def test_on_weights_with_the_chips_generator(package: Path) -> None:
    (package / "mine.yaml").write_text(WEIGHTS)
    deviations = []
    for _ in range(2):
        torch.manual_seed(0)
        programmed, weight = chip(package / "mine.yaml")
        deviations.append(programmed - weight)
    assert deviations[0].equal(deviations[1])
    # 2000 draws: 5 / sqrt(4000) = 8 %.
    assert float(deviations[0].std()) == pytest.approx(0.5, rel=0.08)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("constant", "'constant' is int, which cannot be called; name a function"),
        ("missing", r"tried the entry point '.*:nothing_here': AttributeError"),
        ("broken", r"tried the entry point '.*\.submodule:f': ModuleNotFoundError"),
        ("weakr", r"tried the entry points of the group 'analogize.noise' \(.*weaker\)"),
    ],
)
def test_what_cannot_be_loaded_says_what_was_tried(package: Path, name: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        resolve(name)
