"""Noise models of a user's own are told where they act, and on which chip and conditions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, program
from analogize.crossbar.chip_data import Chip
from analogize.devices.custom import Site
from analogize.errors import TargetError
from analogize.evaluation.montecarlo import evaluate
from analogize.targets import load_target
from analogize.targets.spec import Target

DAC = {"bits": 8, "grid": "symmetric", "range": {"kind": "fixed", "min": -1.0, "max": 1.0}}
ADC = {"bits": 12, "grid": "symmetric", "range": {"kind": "fixed", "min": -32.0, "max": 32.0}}


def target(*noise: dict[str, Any], **more: Any) -> Target:
    weights = {"range": {"kind": "fixed", "min": -1.0, "max": 1.0}}
    converted = {"weights": weights, "dac": DAC, "adc": ADC}
    given = {"name": "t", "conductance": {"g_max": 10.0}, "noise": noise}
    return Target.model_validate(converted | given | more)


def linear(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(1)
    layer = nn.Linear(rows, columns, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)
    return layer


def on_chip(layer: nn.Module, chosen: Target, seed: int | Chip = 0, **how: Any) -> nn.Module:
    analog = analogize(layer, chosen).eval()
    program(analog, seed, **how)
    return analog


X = torch.linspace(-1, 1, 300 * 16).view(300, 16).flip(0)
STEP = 64 / (2**12 - 2)
SEEN: list[Site] = []


def halve(values: torch.Tensor, site: Site, generator: Any, share: float = 0.5) -> torch.Tensor:
    SEEN.append(site)
    return values * share


def per_chip(values: torch.Tensor, site: Site, generator: Any) -> torch.Tensor:
    return values + torch.randn((), generator=generator) * site.conditions.get("humidity", 1.0)


HERE = "analogize_test_functions"


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType(HERE)
    vars(module).update(halve=halve, per_chip=per_chip, with_site=with_site)
    monkeypatch.setitem(sys.modules, HERE, module)
    SEEN.clear()


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("on", ["inputs", "outputs", "converter"])
def test_functions_of_ones_own_are_told_where_they_are(on: str) -> None:
    layer = linear(16, 8)
    model = {"model": "custom", "function": f"{HERE}:halve", "on": on}
    array = {"rows": 8, "cols": 8, "tiling": True}
    y = on_chip(layer, target(model, array=array), conditions={"humidity": 0.4})(X)
    ideal = on_chip(layer, target(array=array))(X)
    # Two tiles, each rounded to a step, half of them halved.
    assert_close(y, ideal / 2, rtol=0, atol=2.1 * STEP)
    assert {site.tile for site in SEEN} == {0, 1}
    site = SEEN[0]
    assert (site.region, site.on, site.digit, site.input_digit) == ("weight", on, 0, 0)
    assert site.axis == (None if on == "inputs" else -1)
    assert (site.low, site.high) == ((-127, 127) if on == "inputs" else (-2047, 2047))
    assert site.conductance is not None
    assert (site.conductance.g_max, site.conductance.unit) == (10.0, "uS")
    assert dict(site.conditions) == {"humidity": 0.4}
    assert site.full_sum == pytest.approx(127.0)


def with_site(weights: torch.Tensor, *others: Any, site: Site) -> torch.Tensor:
    SEEN.append(site)
    return torch.zeros_like(weights) if site.on == "weights" else weights


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("on", ["weights", "devices"])
def test_functions_on_weights_and_devices_may_ask_for_the_site(on: str) -> None:
    model = {"model": "custom", "function": f"{HERE}:with_site", "on": on}
    on_chip(linear(16, 8), target(model), cycle=2, conditions={"humidity": 0.4})
    (site,) = SEEN
    assert (site.region, site.on, site.cycle) == ("weight", on, 2)
    assert dict(site.conditions) == {"humidity": 0.4}


@pytest.mark.usefixtures("functions")
def test_slices_and_input_digits_are_told_apart() -> None:
    model = {"model": "custom", "function": f"{HERE}:halve", "on": "outputs"}
    sliced = target(
        model,
        weights={"range": {"kind": "absmax"}, "bits": 5, "grid": "symmetric"},
        array={"rows": 8, "cols": 8, "tiling": True, "cell_bits": 2, "input_bits": 4},
        adc={"bits": 12, "grid": "symmetric", "range": {"kind": "full"}},
    )
    on_chip(linear(16, 8), sliced)(X)
    places = {(site.tile, site.digit, site.input_digit) for site in SEEN}
    assert places == {(t, d, i) for t in (0, 1) for d in (0, 1) for i in (0, 1)}


@pytest.mark.usefixtures("functions")
def test_the_chips_generator_and_conditions_reach_the_function() -> None:
    layer = linear(16, 8)
    chosen = target({"model": "custom", "function": f"{HERE}:per_chip", "on": "converter"}, adc=ADC)
    zeros = torch.zeros(1, 16)

    def offset(seed: int, **conditions: float) -> float:
        return float(on_chip(layer, chosen, seed, conditions=conditions)(zeros)[0, 0].detach())

    assert offset(1, humidity=100.0) == offset(1, humidity=100.0) != offset(2, humidity=100.0)
    assert offset(1, humidity=200.0) == pytest.approx(2 * offset(1, humidity=100.0), abs=STEP)
    analog = on_chip(layer, chosen)
    data = [(X, torch.zeros(300, 8))]

    def size(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return y.abs().mean()

    def at(humidity: float) -> float | None:
        conditions = {"humidity": humidity}
        found = evaluate(analog, data, size, instances=2, conditions=conditions, progress=False)
        return found.levels[0].mean

    assert at(500.0) == at(500.0) != at(1.0)


def test_functions_on_signals_need_leave_as_any_other(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schema: 1\nnoise: [{model: custom, function: 'a.b:c', on: inputs}]\n")
    with pytest.raises(TargetError, match="is a Python function"):
        load_target(file)
