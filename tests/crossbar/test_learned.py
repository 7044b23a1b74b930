"""Learned ranges: where they begin, what they settle at, and that they stay what they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import (
    Target,
    analogize,
    clip_weights,
    distill,
    export_onnx,
    learned_ranges,
    load,
    program,
    save,
)
from analogize.crossbar.converter import Converter
from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import CalibrationError
from analogize.targets import load_target, spec

Make = Callable[..., Target]
LSQ = {"kind": "learned", "gradient": "lsq", "decay": 0.0}
OUTWARD = {"kind": "learned", "decay": 0.01}
NARROW = {"kind": "percentile", "low": 20.0, "high": 80.0}
WEIGHTS = {"bits": 8, "range": {"kind": "absmax"}, "granularity": "channel", "grid": "symmetric"}


def only(model: nn.Module) -> AnalogOp:
    (op,) = operators(model)
    return op


def identity(make_target: Make, x: Tensor, dac: dict[str, Any]) -> nn.Module:
    """A layer that only its DAC changes."""
    model = analogize(_eye(x.shape[1]), make_target(dac=dac), [x])
    model.weight.requires_grad_(False)
    return model


def trained(
    model: nn.Module, x: Tensor, steps: int, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        clip_weights(model)
        decay.step()
    low, high = only(model).dac.range.tolist()
    return low, high


@pytest.mark.parametrize("grid", ["affine", "symmetric"])
def test_lsq_finds_the_range_of_least_error(make_target: Make, grid: Any) -> None:
    x = torch.randn(1000, 4)
    x = x.sign() * x.abs() ** 1.5
    model = identity(make_target, x, {"bits": 4, "grid": grid, "range": LSQ | {"start": NARROW}})
    with torch.no_grad():
        before = float((model(x) - x).square().mean())
    trained(model, x, 80, torch.optim.Adam(learned_ranges(model).values(), 0.25))
    with torch.no_grad():
        after = float((model(x) - x).square().mean())
    best = analogize(
        _eye(4),
        make_target(dac={"bits": 4, "grid": grid, "range": {"kind": "mse"}}),
        [x],
    )
    with torch.no_grad():
        least = float((best(x) - x).square().mean())
    assert after < 0.5 * before
    # The straight-through gradient is not that of the error itself; it stops near the optimum.
    assert after < 1.1 * least


def _eye(size: int) -> nn.Module:
    layer = nn.Linear(size, size, bias=False)
    nn.init.eye_(layer.weight)
    return layer


@pytest.mark.parametrize("start", [0.4, 2.0])
def test_outward_settles_at_what_it_is_to_hold(make_target: Make, start: float) -> None:
    """All values are 1 or -1: pushed out until they are inside, pulled in while they are."""
    x = torch.randn(50, 4).sign()
    grid = {"bits": 8, "grid": "symmetric", "range": OUTWARD}
    model = identity(make_target, x, grid)
    with torch.no_grad():
        learned_ranges(model)["analog.dac.range"].copy_(torch.tensor([-start, start]))
    low, high = trained(model, x, 200, torch.optim.SGD(learned_ranges(model).values(), 0.9))
    assert low == -high
    # Within the steps of the last rate, and half a converter's step.
    assert high == pytest.approx(1.0, abs=0.02)


def small(make_target: Make, **parts: Any) -> tuple[nn.Module, Tensor]:
    learned = {"bits": 8, "range": LSQ}
    target = make_target(**{"weights": WEIGHTS, "dac": learned, "adc": learned} | parts)
    x = torch.randn(64, 6)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return analogize(model, target, [x]), x


def moved(model: nn.Module, x: Tensor) -> None:
    """One step of an optimizer, without clip_weights."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_any_loop_trains_them_and_the_next_pass_uses_them(make_target: Make) -> None:
    model, x = small(make_target)
    names = list(learned_ranges(model))
    assert names == [f"{n}.analog.{c}.range" for n in (0, 2) for c in ("dac", "adc")]
    before = {name: p.detach().clone() for name, p in learned_ranges(model).items()}
    moved(model, x)
    assert all(not torch.equal(p, before[n]) for n, p in learned_ranges(model).items())
    with torch.no_grad():
        found = model(x)
    fresh = copy.deepcopy(model)
    for op in operators(fresh):
        for converter in (op.dac, op.adc):
            converter.refresh()
        op.refresh()
    with torch.no_grad():
        assert torch.equal(found, fresh(x))
    # To half a step: zero is a code.
    top = [(float(op.dac.grid.range[1]), op.dac.range.tolist()[1]) for op in operators(model)]
    assert all(laid == pytest.approx(end, rel=0.02) for laid, end in top)


def test_distill_trains_them(make_target: Make) -> None:
    model, x = small(make_target)
    before = {name: p.detach().clone() for name, p in learned_ranges(model).items()}
    teacher = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    quiet: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
    distill(model, teacher, [(x, torch.zeros(64, dtype=torch.long))], epochs=2, chips=0, **quiet)
    assert any(not torch.equal(p, before[n]) for n, p in learned_ranges(model).items())


def test_chips_leave_them_as_they_are(make_target: Make) -> None:
    model, x = small(make_target, noise=[{"model": "gaussian", "eta": 0.05}])
    model.eval()
    program(model, 0)
    model(x).sum().backward()
    assert all(p.grad is None for p in learned_ranges(model).values())
    assert model[0].weight.grad is not None


def test_a_step_over_zero_is_half_a_step(make_target: Make) -> None:
    model, x = small(make_target)
    op = operators(model)[0]
    low, high = op.dac.range.tolist()
    with torch.no_grad():
        op.dac.range.copy_(torch.tensor([5.0, -5.0]))
    clip_weights(model)
    assert op.dac.range.tolist() == pytest.approx([low / 2, high / 2])
    assert model(x).isfinite().all()
    # A write past torch's counting is seen by clip_weights too.
    op.dac.range.data = torch.tensor([low, high])
    clip_weights(model)
    assert op._stages.x_scale.item() == pytest.approx((high - low) / 255)


def test_they_stay_float32_and_move_along(make_target: Make) -> None:
    model, _ = small(make_target)
    before = [op.dac.range.tolist() for op in operators(model)]
    parameters = [op.dac.range for op in operators(model)]
    model.half()
    assert [op.dac.range.tolist() for op in operators(model)] == before
    assert all(a is op.dac.range for a, op in zip(parameters, operators(model), strict=True))
    twin = copy.deepcopy(model.float())
    assert [op.dac.range.tolist() for op in operators(twin)] == before
    meta = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    assert all(op.dac.range.isnan().all() for op in operators(meta))


def test_exported_and_saved_they_are_the_same(make_target: Make, tmp_path: Path) -> None:
    model, x = small(make_target)
    for _ in range(3):
        moved(model, x)
        clip_weights(model)
    model.eval()
    with torch.no_grad():
        expected = model(x)
    export_onnx(model, tmp_path / "model.onnx", x)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.array_equal(found, expected.numpy())
    save(model, tmp_path / "model.safetensors")
    digital = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    loaded = load(tmp_path / "model.safetensors", digital)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected)
    for (name, a), (other, b) in zip(
        learned_ranges(model).items(), learned_ranges(loaded).items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
        assert b.requires_grad
    state = model.state_dict()
    fresh, _ = small(make_target)
    fresh.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), expected)


@pytest.mark.parametrize("rule", [OUTWARD, {"kind": "mse"}])
def test_uncalibrated_ranges_say_so(make_target: Make, rule: dict[str, Any]) -> None:
    """Also where neither weights nor outputs are changed, and nothing but the DAC would act."""
    target = make_target(dac={"bits": 8, "range": rule})
    model = analogize(nn.Linear(4, 4), target)
    with pytest.raises(CalibrationError, match="never calibrated"):
        model(torch.randn(2, 4))


def test_the_published_recipe_learns_its_inputs() -> None:
    rule = load_target("afm_2025").dac.range
    assert isinstance(rule, spec.LearnedRange)
    assert rule.start == spec.StdRange(multiple=18.0)
    assert (rule.gradient, rule.decay, rule.inside) == ("outward", 0.01, 0.95)


@pytest.mark.parametrize(("rule", "words"), [(LSQ, "learned ["), ({"kind": "minmax"}, "[")])
def test_a_learned_range_is_called_so(make_target: Make, rule: dict[str, Any], words: str) -> None:
    target = make_target(dac={"bits": 6, "grid": "affine", "range": rule})
    model = analogize(nn.Linear(4, 3), target, [torch.rand(8, 4)])
    assert only(model).dac.described.startswith(words)


def test_a_learned_range_of_positive_values_holds_zero(make_target: Make) -> None:
    dac = {"bits": 8, "range": {**LSQ, "start": {"kind": "minmax"}}}
    model = analogize(nn.Linear(4, 4), make_target(dac=dac), [torch.rand(8, 4) + 0.5])
    low, high = only(model).dac.range.tolist()
    assert low == 0
    assert 1 < high <= 1.5


@pytest.mark.parametrize(
    ("grid", "data", "ends"),
    [
        ("affine", (0.1, 0.5), (0.0, 0.5)),
        ("affine", (-0.5, -0.1), (-0.5, 0.0)),
        ("affine", (-0.25, 0.5), (-0.25, 0.5)),
        ("symmetric", (-0.25, 0.5), (-0.5, 0.5)),
    ],
)
def test_a_learned_range_begins_as_its_grid_lies(
    grid: Any, data: tuple[float, float], ends: tuple[float, float]
) -> None:
    settings = spec.Converter(bits=8, range=spec.LearnedRange(), grid=grid)
    converter = Converter(settings, 1, torch.device("cpu"))
    converter.calibrate(*map(torch.tensor, data))
    assert tuple(converter.range.tolist()) == ends
