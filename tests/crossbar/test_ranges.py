"""Converters in array units, a column and a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, noise_mode
from analogize.crossbar.ops import AnalogOp, operators

Make = Callable[..., Target]


def target(make: Make, **change: Any) -> Target:
    minmax = {"bits": 8, "range": {"kind": "minmax"}}
    parts: dict[str, Any] = {
        "weights": {
            "bits": 8,
            "range": {"kind": "absmax"},
            "granularity": "channel",
            "grid": "symmetric",
        },
        "dac": minmax,
        "adc": minmax,
    }
    return make(**{k: parts[k] | change.get(k, {}) for k in parts} | {"array": change.get("array")})


def uneven(layer: nn.Module) -> nn.Module:
    """A layer whose columns' weights differ in size by powers of ten."""
    assert isinstance(layer.weight, Tensor)
    with torch.no_grad():
        shape = (-1, *[1] * (layer.weight.ndim - 1))
        layer.weight.mul_(10 ** torch.linspace(-2, 1, len(layer.weight)).view(shape))
    return layer


def only(model: nn.Module) -> AnalogOp:
    (op,) = operators(model)
    return op


def test_one_physical_range_serves_columns_of_any_gain(make_target: Make) -> None:
    """In array units the columns with small weights keep their resolution; bit for bit."""
    layer, x = uneven(nn.Linear(64, 16, bias=False)), torch.randn(200, 64)
    analog = analogize(layer, target(make_target), [x]).eval()
    op = only(analog)
    weight = layer.weight.detach()
    scale = (weight.abs().amax(1).double() / 127).float()
    codes = (weight / scale[:, None]).round()
    x_codes, x_scale = op.dac(x), op.dac.scale
    acc = F.linear(x_codes.double(), codes.double())
    sums = F.linear(x, weight) / (scale / scale.max())
    low, high = sums.min().double(), sums.max().double()
    torch.testing.assert_close(op.adc.range, torch.stack([low, high]).float(), rtol=1e-5, atol=0)
    # One step in codes for all columns, and the rescaling of each is digital.
    step = (op.adc.scale.double() / (x_scale.double() * scale.double().max())).float()
    assert op._stages.step.ndim == 0
    assert torch.equal(op._stages.step, step)
    y_codes = (acc.float() / step).round().clamp(op.adc.low, op.adc.high)
    y_scale = (op.adc.scale.double() * (scale.double() / scale.double().max())).float()
    with noise_mode(analog, "off"):
        assert torch.equal(analog(x), y_codes * y_scale)
    with torch.no_grad():
        errors = (analog(x) - layer(x)).pow(2).mean(0) / layer(x).pow(2).mean(0)
    # 8 bits over a range common to columns of similar statistics: far above 30 dB each.
    assert float(errors.max()) < 1e-3


@pytest.mark.parametrize("grid", ["affine", "symmetric"])
def test_a_range_a_column_is_integer_arithmetic(make_target: Make, grid: str) -> None:
    layer, x = uneven(nn.Linear(32, 9, bias=False)), torch.randn(100, 32)
    adc = {"bits": 6, "granularity": "channel", "grid": grid}
    analog = analogize(layer, target(make_target, adc=adc), [x]).eval()
    op = only(analog)
    y = F.linear(x, layer.weight.detach())
    low, high = y.amin(0).double(), y.amax(0).double()
    torch.testing.assert_close(op.adc.range, torch.stack([low, high]).float(), rtol=1e-5, atol=0)
    ends = op.adc.range.double()
    if grid == "symmetric":
        scale = ends.abs().amax(0) / 31
        first, last = torch.full_like(scale, -31), torch.full_like(scale, 31)
    else:
        scale = (ends[1] - ends[0]) / 63
        first = (ends[0] / scale).round()
        last = first + 63
    w_scale = (layer.weight.detach().abs().amax(1).double() / 127).float()
    codes = (layer.weight.detach() / w_scale[:, None]).round()
    acc = F.linear(op.dac(x).double(), codes.double()).float()
    scale32 = scale.float()
    step = (scale32.double() / (op.dac.scale.double() * w_scale.double())).float()
    expected = torch.clamp((acc / step).round(), first.float(), last.float()) * scale32
    with noise_mode(analog, "off"):
        assert torch.equal(analog(x), expected)


@given(st.integers(0, 10**6), st.sampled_from(["affine", "symmetric"]), st.integers(2, 8))
@settings(max_examples=20)
def test_a_range_a_vector_is_integer_arithmetic(seed: int, grid: str, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 20, generator=generator) * 10 ** torch.linspace(-3, 3, 12)[:, None]
    x[3] = 0
    x[4].abs_()
    layer = nn.Linear(20, 5, bias=False)
    dac = {"bits": bits, "range": {"kind": "vector"}, "grid": grid}
    analog = analogize(layer, target(make(), dac=dac), [x]).eval()
    op = only(analog)
    one, steps = torch.ones(()), 2 ** (bits - 1) - 1 if grid == "symmetric" else 2**bits - 1
    scale = (one.double() / steps).float()
    low = x.amin(1, keepdim=True).clamp(max=0)
    span = x.amax(1, keepdim=True).clamp(min=0) - low
    if grid == "symmetric":
        span = x.abs().amax(1, keepdim=True)
    span[3] = 1
    step_x = span * scale
    first = (low / step_x).round() if grid == "affine" else torch.full_like(low, -steps)
    last = first + steps if grid == "affine" else -first
    x_codes = torch.clamp((x / step_x).round(), first, last)
    assert float((x - x_codes * step_x).abs().max() / span.max()) <= 0.51 / steps
    acc = F.linear(x_codes.double(), op.array.clean(layer.weight.detach()).double()).float()
    y_codes = (acc / op._stages.step).round().clamp(op.adc.low, op.adc.high)
    with noise_mode(analog, "off"):
        assert torch.equal(analog(x), y_codes * op._stages.y_scale * span)


def make() -> Make:
    def made(**parts: Any) -> Target:
        return Target.model_validate({"schema": 1, "name": "test"} | parts)

    return made


PRODUCTS = {
    "linear": (lambda: nn.Linear(12, 7), (9, 12)),
    "row": (lambda: nn.Linear(12, 1), (4, 3, 12)),
    "conv": (lambda: nn.Conv2d(3, 5, 3, padding=1), (2, 3, 6, 6)),
    "unbatched": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 7)),
    "grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "array units": {},
    "array units, no weight bits": {"weights": {"bits": None}},
    "channel": {"adc": {"granularity": "channel"}},
    "channel, mse": {"adc": {"granularity": "channel", "range": {"kind": "mse"}}},
    "bound": {"adc": {"range": {"kind": "bound", "bound": 4.0}, "grid": "symmetric"}},
    "vector": {"dac": {"range": {"kind": "vector"}}},
    "vector, symmetric": {"dac": {"range": {"kind": "vector"}, "grid": "symmetric"}},
    "vector, no ADC": {"dac": {"range": {"kind": "vector"}}, "adc": {"bits": None}},
    "vector, tiles": {
        "dac": {"range": {"kind": "vector"}},
        "array": {"rows": 5, "cols": 4, "tiling": True},
    },
    "channel, tiles": {
        "adc": {"granularity": "channel"},
        "array": {"rows": 5, "cols": 4, "tiling": True},
    },
    "all mse": {k: {"range": {"kind": "mse"}} for k in ("weights", "dac", "adc")},
}


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_eight_bits_stay_close_for_every_product(make_target: Make, kind: str, name: str) -> None:
    build, shape = PRODUCTS[kind]
    layer, x = build(), torch.randn(shape)
    analog = analogize(nn.Sequential(layer), target(make_target, **SETTINGS[name]), [x]).eval()
    with torch.no_grad():
        y, clean = analog(x), layer(x)
    assert y.shape == clean.shape
    # Three stages of 8 bits, about 48 dB each for a full range; a bound of 4 is wider than needed.
    assert float((y - clean).pow(2).mean() / clean.var()) < (0.01 if name == "bound" else 0.001)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_straight_through(make_target: Make, name: str) -> None:
    """Where nothing saturates: those of the digital product of the weights and inputs applied."""
    layer, data = uneven(nn.Linear(12, 7, bias=False)), torch.randn(64, 12)
    analog = analogize(layer, target(make_target, **SETTINGS[name]), [3 * data])
    op = only(analog)
    op.adc.range.mul_(2)
    op.adc.refresh()
    op.refresh()
    x = data[:32].clone().requires_grad_()
    y = analog(x)
    grad = torch.randn_like(y)
    grad_x, grad_w = torch.autograd.grad(y, (x, analog.weight), grad)
    real, spans = op.array.real(layer.weight.detach()), op._stages.spans
    with torch.no_grad():
        span = 1.0 if spans is None else spans.measure(x)[0]
        codes = op.dac(x) if spans is None else spans.codes(x, op.dac.scale)
        inputs = codes * (op.dac.scale * span)
    within = op.array.mask_gradient(torch.ones_like(layer.weight), layer.weight)
    torch.testing.assert_close(grad_x, grad @ real, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_w, grad.t() @ inputs * within, rtol=1e-4, atol=1e-4)


def test_a_saturated_column_stops_its_gradient(make_target: Make) -> None:
    layer, data = uneven(nn.Linear(12, 7, bias=False)), torch.randn(64, 12)
    analog = analogize(layer, target(make_target, adc={"granularity": "channel"}), [data])
    op = only(analog)
    op.adc.range[:, 2] *= 0.1
    op.adc.refresh()
    op.refresh()
    x = data.clone().requires_grad_()
    y = analog(x)
    rounded = F.linear(op.dac(x), op.array.clean(layer.weight.detach())) / op._stages.step
    passes = (rounded.round() >= op._stages.y_low) & (rounded.round() <= op._stages.y_high)
    assert passes[:, 2].float().mean() < 0.5 < passes[:, 3:].float().mean()
    grad = torch.randn_like(y)
    expected = (grad * passes) @ op.array.real(layer.weight.detach())
    inside = (x >= op.dac.range[0]) & (x <= op.dac.range[1])
    (found,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(found * inside, expected * inside, rtol=1e-4, atol=1e-4)


def test_a_bound_counts_in_full_scales(make_target: Make) -> None:
    adc = {"bits": 8, "grid": "symmetric", "range": {"kind": "bound", "bound": 3.0}}
    layer, x = uneven(nn.Linear(12, 7, bias=False)), torch.randn(64, 12)
    dac = {"bits": 8, "grid": "symmetric", "range": {"kind": "fixed", "min": -2.0, "max": 2.0}}
    op = only(analogize(layer, target(make_target, dac=dac, adc=adc)))
    largest = layer.weight.abs().max().item()
    assert op.adc.range.tolist() == pytest.approx([-3 * 2 * largest, 3 * 2 * largest], rel=1e-6)
    assert op.is_calibrated
    # In codes: bound times the largest input code times the largest weight code, over 127 steps.
    assert float(op._stages.step) == pytest.approx(3 * 127 * 127 / 127, rel=1e-6)
    assert op(x, layer.weight).shape == (64, 7)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dac": {"range": {"kind": "bound", "bound": 3.0}}}, "a DAC has no sums"),
        ({"dac": {"granularity": "channel"}}, "serves all columns alike"),
        ({"adc": {"range": {"kind": "vector"}}}, "one sum at a time"),
        ({"adc": {"granularity": "channel", "range": {"kind": "full"}}}, "one for all columns"),
        ({"adc": {"range": {"kind": "bound", "bound": 1.0}}, "dac": {"bits": None}}, "dac.bits"),
        ({"weights": {"bits": None, "range": {"kind": "mse"}}}, "nothing is rounded"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(
    make_target: Make, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        target(make_target, **parts)
