"""Noise models of a user's own: functions by name, and of a package, found by entry point."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.testing import assert_close

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.custom import resolve
from analogize.errors import ChipError, TargetError
from analogize.targets import load_target
from analogize.targets.spec import Target

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


def target(*noise: dict[str, Any]) -> Target:
    weights, mapping = {"range": {"kind": "absmax"}}, {"g_max": 25.0}
    base = {"name": "test", "weights": weights, "conductance": mapping, "noise": noise}
    return Target.model_validate(base)


def chips(analog: nn.Module) -> list[Tensor]:
    found = [op.array.chip for op in operators(analog)]
    return [chip for chip in found if chip is not None]


def double(conductances: Tensor, time: float, generator: object, factor: float = 2.0) -> Tensor:
    return conductances * factor


def shrink(weights: Tensor, low: object, high: object, generator: object) -> Tensor:
    return -weights / 2


def wrong_shape(*arguments: Any) -> Tensor:
    return torch.zeros(3)


def add_map(conductances: Tensor, time: float, generator: object, file: list[float]) -> Tensor:
    return conductances + torch.tensor(file)


def test_custom_noise_on_devices_and_weights() -> None:
    layer, here = nn.Linear(4, 4, bias=False), __name__
    devices = {"model": "custom", "function": f"{here}:double", "on": "devices"}
    analog = analogize(layer, target(devices | {"parameters": {"factor": 3.0}}))
    program(analog, 0)
    assert_close(chips(analog)[0], layer.weight.detach() * 3)

    weights = {"model": "custom", "function": f"{here}:shrink"}
    analog = analogize(layer, target(weights))
    program(analog, 0)
    assert_close(chips(analog)[0], layer.weight.detach() / 2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no.such.module:f", "tried to import the module 'no.such.module'.*ModuleNotFoundError"),
        ("math:no_such", "tried .*'math' and to take 'no_such' from it: AttributeError"),
        ("math:pi", "'math:pi' is float, which cannot be called"),
        ("my_noise", "tried the entry points of the group 'analogize.noise' .*'package.module:f"),
    ],
)
def test_custom_noise_that_cannot_be_loaded(function: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        analogize(nn.Linear(4, 4), target({"model": "custom", "function": function}))


@pytest.mark.parametrize("on", ["weights", "devices"])
def test_custom_noise_of_a_wrong_shape(on: str) -> None:
    noise = {"model": "custom", "function": f"{__name__}:wrong_shape", "on": on}
    analog = analogize(nn.Linear(4, 4), target(noise))
    with pytest.raises(ChipError, match=r"must return .* not \(3,\)"):
        program(analog, 0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"cannot be called: missing a required argument: 'file'; on devices it is called wi"),
        ({"file": "m", "g": 1}, r"got an unexpected keyword argument 'g'.*\(file, g\).*signature"),
        ({"file": [1.0, 2.0, 3.0]}, r"failed on conductances of shape \(2, 1, 4, 4\): RuntimeErr"),
    ],
)
def test_custom_noise_that_cannot_be_called_or_fails(
    parameters: dict[str, Any], message: str
) -> None:
    noise = {"model": "custom", "function": f"{__name__}:add_map", "on": "devices"}
    with pytest.raises((ChipError, TargetError), match=message):
        program(analogize(nn.Linear(4, 4), target(noise | {"parameters": parameters})), 0)


FLAT = {"kind": "polynomial", "coefficients": [0.0]}


def test_programming_of_ones_own_before_stuck_devices() -> None:
    """What the function makes is what was programmed; stuck devices are stuck all the same."""
    own = {"model": "custom", "function": f"{__name__}:double", "on": "devices"}
    stuck = {"model": "stuck", "at_min": 0.5}
    read = {"model": "drift", "t0": 20.0, "nu_mean": FLAT, "nu_std": FLAT}
    layer = nn.Linear(60, 60, bias=False)
    analog = analogize(layer, target(own, stuck, read))
    program(analog, 0)
    ratio = chips(analog)[0] / layer.weight.detach()
    assert_close(ratio, 2 * ratio.sign())
    assert 0.4 < float(ratio.sign().mean()) < 0.6

    with pytest.raises(ValidationError, match="list it before 'drift'"):
        target(read, own, stuck)
