"""Chips made of devices: programming, time, cycles, compensation and levels of noise."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from analogize import analogize, noise_level, program
from analogize.crossbar.ops import operators
from analogize.errors import ChipError
from analogize.targets.spec import Target

PROGRAMMING = {"model": "programming", "sigma": {"kind": "polynomial", "coefficients": [0.5]}}
DRIFT = {
    "model": "drift",
    "t0": 20.0,
    "nu_mean": {"kind": "polynomial", "coefficients": [0.06]},
    "nu_std": {"kind": "polynomial", "coefficients": [0.0]},
}


def target(*noise: dict[str, Any], **more: Any) -> Target:
    base = {
        "name": "test",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_max": 25.0},
        "noise": noise,
    }
    return Target.model_validate(base | more)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()


def chips(analog: nn.Module) -> list[Tensor]:
    found = [op.array.chip for op in operators(analog)]
    return [chip for chip in found if chip is not None]


def test_a_seed_is_a_chip() -> None:
    analog = analogize(model(), target(PROGRAMMING))
    program(analog, 3)
    first = chips(analog)
    program(analog, 4)
    other = chips(analog)
    program(analog, 3)

    assert all(a.equal(b) for a, b in zip(first, chips(analog), strict=True))
    assert not any(a.equal(b) for a, b in zip(first, other, strict=True))


def test_programming_noise_in_weight_units() -> None:
    analog = analogize(nn.Linear(300, 300), target(PROGRAMMING))
    program(analog, 0)
    (op,), (chip,) = operators(analog), chips(analog)
    weight = op.array.clean(analog.get_parameter("weight").detach())

    # The off device is cut off at 0: the mean square of max(0, N(0, s)) is s^2 / 2.
    full = float(op.array.range[1])
    variance = (0.5 / 25 * full) ** 2 * (1 + 0.5)
    assert float((chip - weight).std()) == pytest.approx(math.sqrt(variance), rel=0.03)


def test_the_same_chip_later() -> None:
    noisy_drift = DRIFT | {"nu_std": {"kind": "polynomial", "coefficients": [0.01]}}
    analog = analogize(model(), target(PROGRAMMING, noisy_drift))
    program(analog, 3)
    first = chips(analog)
    program(analog, 3, drift_time="1 day")
    day = chips(analog)
    program(analog, 3, drift_time=2 * 86400)
    two_days = chips(analog)

    for before, after, later in zip(first, day, two_days, strict=True):
        # A pair's drift keeps the sign unless both devices are nearly off.
        ratio = (after.abs().sum() / before.abs().sum()).item()
        expected = (86420 / 20) ** -0.06
        assert ratio == pytest.approx(expected, rel=0.05)
        assert later.abs().sum() < after.abs().sum()


def test_another_cycle_keeps_the_devices() -> None:
    stuck = {"model": "stuck", "at_min": 0.2, "at_max": 0.2}
    mapping = {"g_min": 10.0, "g_max": 25.0}  # far from the cut-off at 0
    analog = analogize(nn.Linear(50, 50), target(PROGRAMMING, stuck, conductance=mapping))
    program(analog, 1)
    (first,) = chips(analog)
    program(analog, 1, cycle=1)
    (second,) = chips(analog)

    # A weight is frozen where both of its devices are stuck, 0.4^2 of them: 400 of 2500 expected.
    same = int((first == second).sum())
    assert abs(same - 400) < 5 * math.sqrt(2500 * 0.16 * 0.84)


@pytest.mark.parametrize("compensation", ["global", "column"])
def test_compensation_undoes_a_drift_that_all_devices_share(compensation: Any) -> None:
    analog, x = analogize(model(), target(DRIFT)), torch.randn(4, 3, 8, 8)
    program(analog, 0)
    first = analog(x)
    program(analog, 0, drift_time="1 month", compensation="none")
    drifted = analog(x)
    program(analog, 0, drift_time="1 month", compensation=compensation)

    assert_close(analog(x), first, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drifted, first, rtol=0.1, atol=0.01)


def test_compensation_can_be_the_targets_own() -> None:
    analog = analogize(nn.Linear(4, 4, bias=False), target(DRIFT, compensation="global"))
    x = torch.randn(2, 4)
    program(analog.eval(), 0, drift_time="1 h")
    assert_close(analog(x), x @ analog.get_parameter("weight").T, rtol=1e-4, atol=1e-5)


def test_an_unknown_compensation() -> None:
    analog = analogize(nn.Linear(4, 4), target(DRIFT))
    with pytest.raises(ChipError, match="compensation 'all' is unknown; allowed are 'none', 'glob"):
        program(analog, 0, compensation="all")  # type: ignore[arg-type]


def test_a_time_beyond_the_measurements_names_region_and_model() -> None:
    relaxation = {
        "model": "relaxation",
        "points": [{"time": 1.0, "sigma": {"kind": "polynomial", "coefficients": [0.5]}}],
    }
    analog = analogize(model(), target(relaxation))
    with pytest.raises(
        ChipError, match=r"'0' cannot be read 1 day after programming: noise\[0\] \(relaxation\)"
    ):
        program(analog, 0, drift_time="1 day")


def test_a_curve_that_becomes_negative_is_named() -> None:
    negative = {
        "model": "programming",
        "sigma": {"kind": "polynomial", "coefficients": [0.1, -1.0]},
    }
    analog = analogize(model(), target(negative))
    with pytest.raises(ChipError, match="sigma is negative at a conductance of"):
        program(analog, 0)


def test_a_scale_for_each_column_makes_small_columns_less_noisy() -> None:
    layer = nn.Linear(200, 2, bias=False)
    with torch.no_grad():
        layer.weight[0].mul_(0.01)
    for scale, ratio in (("tensor", 1.0), ("column", 0.01)):
        mapping = {"g_min": 10.0, "g_max": 25.0, "scale": scale}
        analog = analogize(layer, target(PROGRAMMING, conductance=mapping))
        program(analog, 0)
        deviation = (chips(analog)[0] - layer.weight.detach()).std(1)
        assert float(deviation[0] / deviation[1]) == pytest.approx(ratio, rel=0.25)


def test_more_pairs_average() -> None:
    layer = nn.Linear(200, 200, bias=False)
    spreads = []
    for pairs in (1, 4):
        mapping = {"g_min": 10.0, "g_max": 25.0, "pairs": pairs}  # far from the cut-off at 0
        analog = analogize(layer, target(PROGRAMMING, conductance=mapping))
        program(analog, 0)
        spreads.append(float((chips(analog)[0] - layer.weight.detach()).std()))
    assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.05)


def test_fresh_noise_differs_from_pass_to_pass_and_gradients_are_clean() -> None:
    analog = analogize(nn.Linear(6, 4, bias=False), target(PROGRAMMING)).train()
    x = torch.randn(3, 6, requires_grad=True)
    assert not analog(x).equal(analog(x))
    analog(x).sum().backward()
    expected = analog.get_parameter("weight").detach().sum(0).expand(3, 6)
    assert_close(x.grad, expected)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_devices_and_wires_compile_to_one_graph() -> None:
    """Traced by Dynamo without a break; the checks of values stay in the graph."""
    wires = {"model": "ir_drop", "row_segment": 1.0, "column_segment": 1.0}
    given = target(PROGRAMMING, DRIFT, wires, array={"rows": 8, "cols": 8})
    analog, x = analogize(nn.Linear(20, 6, bias=False), given).train(), torch.randn(3, 20)
    compiled = torch.compile(analog, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    expected = x.sum(0).expand(6, 20)
    assert_close(analog.get_parameter("weight").grad, expected)

    too_long = target(wires | {"row_segment": 1e5}, array={"rows": 8, "cols": 8})
    analog = analogize(nn.Linear(20, 6, bias=False), too_long).train()
    with pytest.raises(RuntimeError, match="IR drop: a loss above 1"):
        torch.compile(analog, backend="aot_eager")(x)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 2.0])
def test_a_level_on_devices_is_a_factor_on_their_noise(level: float) -> None:
    """Far from the cut-off at 0 the deviation is proportional to it, draw for draw."""
    mapping = {"g_min": 10.0, "g_max": 25.0}
    analog = analogize(nn.Linear(50, 50, bias=False), target(PROGRAMMING, conductance=mapping))
    clean = analog.get_parameter("weight").detach()
    program(analog, 1)
    own = chips(analog)[0] - clean
    with noise_level(analog, level):
        program(analog, 1)
        assert_close(chips(analog)[0] - clean, level * own, rtol=1e-4, atol=1e-6)
    program(analog, 1)
    assert_close(chips(analog)[0] - clean, own, rtol=0, atol=0)


@pytest.mark.parametrize("level", [0.0, 0.5, 2.0])
def test_a_level_scales_drift_and_read_noise(level: float) -> None:
    read = {"model": "read", "sigma": {"kind": "polynomial", "coefficients": [0.5]}}
    analog = analogize(nn.Linear(50, 3, bias=False), target(DRIFT, read)).eval()
    x, day = torch.randn(50).expand(20_000, 50), 86400.0
    with noise_level(analog, level):
        program(analog, 1, drift_time=day)
        # A drift of nu is one of level times nu.
        drifted = analog.get_parameter("weight").detach() * (1 + day / 20) ** (-0.06 * level)
        assert_close(chips(analog)[0], drifted, rtol=1e-3, atol=1e-5)
        found = analog(x).std(0)
        scaled = [m for m in operators(analog)[0].array.noise if m.model == "read"]
        assert scaled[0].scale == level  # type: ignore[union-attr]
    own = analog(x).std(0)
    # Each deviation of 20 000 draws has a standard error of 0.5 %.
    assert_close(found, level * own, rtol=0.05, atol=1e-6)


def test_a_level_without_a_meaning_is_refused() -> None:
    gaussian = {"model": "gaussian", "eta": 0.1}
    for noise in ([PROGRAMMING, gaussian], [{"model": "stuck", "at_min": 0.1}]):
        analog = analogize(nn.Linear(4, 4), target(*noise))
        with (
            pytest.raises(ChipError, match=r"a level of 0\.1 would have no meaning"),
            noise_level(analog, 0.1),
        ):
            pass


def test_a_column_of_zeros_has_the_noise_of_its_own_scale() -> None:
    layer = nn.Linear(20, 3, bias=False)
    with torch.no_grad():
        layer.weight[1] = 0
    mapping = {"g_min": 10.0, "g_max": 25.0, "scale": "column"}
    analog = analogize(layer, target(PROGRAMMING, conductance=mapping))
    program(analog, 0)
    (chip,) = chips(analog)
    assert not chip[1].any()
    assert bool((chip[::2] != layer.weight.detach()[::2]).all())
