"""Learned ranges: their gradients, what they settle at, and that they stay what they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analogize import (
    Target,
    analogize,
    clip_weights,
    distill,
    export_onnx,
    learned_ranges,
    load,
    noise_mode,
    program,
    save,
)
from analogize.crossbar.converter import Converter
from analogize.crossbar.learned import Learning, gradient, rest
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


def surrogate(
    ends: np.ndarray[Any, Any], x: np.ndarray[Any, Any], bits: int, symmetric: bool
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What a converter gives as a function of its ends, with what rounding adds held fixed."""
    steps = 2**bits - (2 if symmetric else 1)
    scale = (ends[1] - ends[0]) / steps
    first = -steps // 2 if symmetric else np.round(ends[0] / scale)
    codes = np.round(x / scale)
    below, above = codes < first, codes > first + steps
    added = np.where(below | above, 0, codes - x / scale)

    def given_ends(now: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        inner = x + added * (now[1] - now[0]) / steps
        return np.where(below, now[0], np.where(above, now[1], inner))

    return given_ends


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([2, 4, 8]), st.booleans())
def test_lsq_is_the_derivative_of_the_straight_through_surrogate(
    seed: int, symmetric: bool, bits: int, columns: bool
) -> None:
    random = np.random.default_rng(seed)
    x, weights = random.standard_normal((200, 3)), random.standard_normal((200, 3))
    shape = (3,) if columns else ()
    high = np.abs(random.standard_normal(shape)) + 0.3
    ends = np.stack([-high if symmetric else -0.7 * high, high])
    learning = Learning(
        spec.LearnedRange(gradient="lsq", decay=0.0),
        symmetric,
        2.0**bits - (2 if symmetric else 1),
    )
    step = torch.tensor((ends[1] - ends[0]) / learning.steps, dtype=torch.float32)
    first = -learning.steps / 2 if symmetric else (torch.tensor(ends[0]) / step).round()
    last = first + learning.steps
    both = [torch.as_tensor(e, dtype=torch.float32).expand(shape) for e in (first, last)]
    values = torch.tensor(x, dtype=torch.float32)
    change = rest(values, step, both[0], both[1], learning)
    tensor_ends = torch.tensor(ends, dtype=torch.float32)
    found = gradient(learning, tensor_ends, torch.tensor(weights), change).double().numpy()
    gives = surrogate(ends, x, bits, symmetric)
    # A step that moves no value over an edge: the surrogate is linear in the ends.
    h = 1e-3
    size = x.shape[0] if columns else x.size
    scale = (size * np.abs(ends).max(0) / (ends[1] - ends[0]) * learning.steps) ** -0.5
    moves = [np.array([-h, h])] * 2 if symmetric else [np.array([h, 0]), np.array([0, h])]
    for end, move in enumerate(moves):
        offset = move[:, None] if columns else move
        slope = ((gives(ends + offset) - gives(ends - offset)) / (2 * h) * weights).sum(
            0 if columns else None
        )
        slope = -slope if symmetric and end == 0 else slope
        np.testing.assert_allclose(found[end], slope * scale, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.9, 1.0]))
def test_outward_is_the_published_rule(seed: int, symmetric: bool, inside: float) -> None:
    random = np.random.default_rng(seed)
    x, grad = random.standard_normal(300).astype(np.float32), random.standard_normal(300)
    low, high = (-1.5, 1.5) if symmetric else (-0.9, 1.5)
    rule = spec.LearnedRange(decay=0.01, inside=inside)
    learning = Learning(rule, symmetric, 254.0 if symmetric else 255.0)
    step = torch.tensor((high - low) / learning.steps)
    first = -127.0 if symmetric else float(np.round(low / float(step)))
    change = rest(torch.from_numpy(x), step, first, first + learning.steps, learning)
    ends = torch.tensor([low, high])
    found = gradient(learning, ends, torch.from_numpy(grad), change).tolist()
    codes = np.round(x / np.float32(step))
    above, below = codes > first + learning.steps, codes < first
    half = (high - low) / 2
    out = half * np.minimum(grad[above], 0).sum(), half * np.maximum(grad[below], 0).sum()
    pull = 0.01 if 1 - np.mean(above | below) > inside else 0.0
    if symmetric:
        expected = [-(out[0] - out[1] + pull * high), out[0] - out[1] + pull * high]
    else:
        expected = [out[1] + pull * low, out[0] + pull * high]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


CASES: dict[str, dict[str, Any]] = {
    "dac": {"dac": {"bits": 6, "range": LSQ | {"start": NARROW}}},
    "symmetric dac": {"dac": {"bits": 6, "grid": "symmetric", "range": LSQ | {"start": NARROW}}},
    "adc": {"adc": {"bits": 6, "range": LSQ | {"start": NARROW}}},
    "adc a column": {
        "adc": {"bits": 6, "granularity": "channel", "range": LSQ | {"start": NARROW}}
    },
    "adc of tiles": {
        "adc": {"bits": 6, "range": LSQ | {"start": NARROW}},
        "array": {"rows": 5, "cols": 4, "tiling": True},
    },
    "adc behind vectors": {
        "dac": {"bits": 8, "range": {"kind": "vector"}},
        "adc": {"bits": 6, "range": LSQ | {"start": NARROW}},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_an_operators_range_gets_its_gradient(make_target: Make, case: str) -> None:
    """As autograd has it of the operator written in plain tensors, by the converters' ends."""
    layer, x = nn.Linear(12, 7, bias=False), torch.randn(40, 12)
    analog = analogize(layer, make_target(weights=WEIGHTS, **CASES[case]), [x]).train()
    op = only(analog)
    is_dac = op.dac.learning is not None
    converter = op.dac if is_dac else op.adc
    (ends,) = learned_ranges(analog).values()
    c = torch.randn(40, 7)
    with noise_mode(analog, "off"):
        (found,) = torch.autograd.grad((analog(x) * c).sum(), ends)
    variable = ends.detach().double().requires_grad_()
    real = op.array.real(layer.weight.detach()).double()

    def converted(values: Tensor, share: Tensor | float) -> Tensor:
        steps = converter.learning.steps
        scale = (variable[1] - variable[0]) / steps * share
        exact = (values / scale).detach()
        low, high = (torch.as_tensor(end).double() for end in (converter.low, converter.high))
        codes = exact.round().clamp(low, high)
        inner = values + (codes - exact) * scale
        sides = variable[0] * share, variable[1] * share
        outside = torch.where(exact.round() < low, *sides)
        return torch.where(codes == exact.round(), inner, outside)

    if is_dac:
        y = converted(x.double(), 1.0) @ real.T
    else:
        share = op._stages.shares
        share = 1.0 if share is None else share.double()
        inputs, span = x.double(), 1.0
        if op._stages.spans is not None:
            span = op._stages.spans.measure(x)[0].double()
            inputs = op._stages.spans.codes(x, op.dac.scale).double() * op.dac.scale.double()
        pieces = [slice(0, 5), slice(5, 10), slice(10, 12)] if op.tiles else [slice(0, 12)]
        y = span * sum(converted(inputs[:, p] @ real[:, p].T, share) for p in pieces)
    (expected,) = torch.autograd.grad((y * c.double()).sum(), variable)
    values = 40 * (12 if is_dac else 7) * (3 if op.tiles else 1)
    values = 40 if ends.ndim > 1 else values
    largest = (ends.abs().amax(0) / (ends[1] - ends[0])).detach() * converter.learning.steps
    expected = expected * (values * largest).rsqrt()
    if converter.learning.symmetric:
        expected = torch.stack([expected[0] - expected[1], expected[1] - expected[0]])
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


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
    converter = Converter(spec.Converter(bits=8, range=spec.LearnedRange(), grid=grid), 1)
    converter.calibrate(*map(torch.tensor, data))
    assert tuple(converter.range.tolist()) == ends
