"""The rules of ranges against NumPy, and converters in array units, a column and a vector."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as pairs
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, noise_mode
from analogize.crossbar.fitting import fit, squared_error, thinned
from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.stream import Columns, Stream
from analogize.errors import CalibrationError
from analogize.product import BatchedLinear, Convolution, Linear, columns
from analogize.targets import spec

Make = Callable[..., Target]
RULES = [
    spec.PercentileRange(),
    spec.PercentileRange(low=2.0, high=90.0),
    spec.MinMaxRange(),
    spec.StdRange(multiple=1.5),
    spec.LeastSquaresRange(),
]


def values(seed: int, count: int, tail: float = 1.5) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values with a tail: the power of a normal variable."""
    normal = np.random.default_rng(seed).standard_normal(count)
    return (np.sign(normal) * np.abs(normal) ** tail).astype(np.float32)


def streamed(data: np.ndarray[Any, Any], parts: int) -> Stream:
    stream = Stream()
    for part in np.array_split(data, parts):
        stream.add(torch.from_numpy(part))
    return stream


def reference(rule: spec.CalibratedRange, x: np.ndarray[Any, Any]) -> tuple[float, float]:
    wide = x.astype(np.float64)
    match rule:
        case spec.PercentileRange(low=low, high=high):
            return float(np.percentile(wide, low)), float(np.percentile(wide, high))
        case spec.StdRange(multiple=multiple):
            half, mean = multiple * wide.std(), wide.mean()
            return max(mean - half, wide.min()), min(mean + half, wide.max())
    return float(wide.min()), float(wide.max())


@given(
    st.integers(0, 10**6),
    st.integers(2, 500),
    st.integers(1, 5),
    st.sampled_from(RULES[:-1]),
)
def test_short_streams_follow_numpy(
    seed: int, count: int, parts: int, rule: spec.CalibratedRange
) -> None:
    data = values(seed, count)
    found = fit(rule, *streamed(data, parts).values(), 8, "affine")
    np.testing.assert_allclose(found, reference(rule, data), rtol=1e-5, atol=1e-6)


def test_many_small_parts_are_counted_as_few_large_ones() -> None:
    data = values(3, 200_000, tail=3.0)
    whole, parts = streamed(data, 1), streamed(data, 4000)
    for one, other in zip(whole.values(), parts.values(), strict=True):
        assert torch.equal(one, other)
    assert (whole.smallest, whole.largest) == (parts.smallest, parts.largest)
    assert parts.is_rounded
    # Whatever is added after a look counts too.
    parts.add(torch.full((3,), 2.0**20))
    found, counts = parts.values()
    assert float(found[-1]) == 2.0**20
    assert int(counts[-1]) == 3
    bad = streamed(data, 4000)
    bad.add(torch.tensor([float("nan")]))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        bad.values()


@pytest.mark.parametrize("rule", RULES[:-1])
def test_long_streams_stay_within_the_stated_error(rule: spec.CalibratedRange) -> None:
    data = values(1, 300_000, tail=3.0)
    stream = streamed(data, 7)
    assert stream.is_rounded
    found = fit(rule, *stream.values(), 8, "affine")
    # bfloat16 rounds to 2^-8 of a value at most.
    np.testing.assert_allclose(found, reference(rule, data), rtol=2.0**-8)
    assert (stream.smallest, stream.largest) == (data.min(), data.max())
    assert stream.seen == data.size


def quantization_error(
    x: np.ndarray[Any, Any], low: float, high: float, bits: int, grid: str
) -> float:
    if grid == "symmetric":
        last = 2 ** (bits - 1) - 1
        scale = max(abs(low), abs(high)) / last
        codes = np.clip(np.round(x / scale), -last, last)
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (2**bits - 1)
        first = round(low / scale)
        codes = np.clip(np.round(x / scale), first, first + 2**bits - 1)
    return float(np.mean((x - codes * scale) ** 2))


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([100, 2000]),
    st.integers(2, 8),
    st.sampled_from(["affine", "symmetric"]),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.booleans(),
)
def test_least_squares_is_as_good_as_an_exhaustive_search(
    seed: int, count: int, bits: int, grid: Any, tail: float, positive: bool
) -> None:
    data = values(seed, count, tail).astype(np.float64)
    data = np.abs(data) if positive else data
    tensor = torch.from_numpy(data).sort().values
    ones = torch.ones(count, dtype=torch.long)
    low, high = map(float, fit(RULES[-1], tensor, ones, bits, grid))
    mine = quantization_error(data, low, high, bits, grid)
    factors = np.geomspace(1 / 64, 1, 40)
    both = [(f, f) for f in factors] if grid == "symmetric" or positive else pairs(factors, factors)
    best = min(
        quantization_error(data, f * data.min(), g * data.max(), bits, grid) for f, g in both
    )
    # Searching an end at a time may stop beside the best pair, never far from it.
    assert mine <= 1.1 * best + 1e-12


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 512, 513, 1500, 6000]),
    st.sampled_from([2, 4, 8, 10]),
    st.sampled_from(["affine", "symmetric"]),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.booleans(),
)
def test_few_values_stand_for_a_column_in_a_search(
    seed: int, count: int, bits: int, grid: Any, tail: float, rectified: bool
) -> None:
    data = values(seed, 2 * count, tail).reshape(count, 2)
    data = np.maximum(data, 0) if rectified else data
    few, counts = thinned(torch.from_numpy(data))
    assert int(counts.sum()) == count
    assert len(few) == min(count, 512)
    assert bool((few.diff(dim=0) >= 0).all())
    assert np.array_equal(few[[0, -1]], [data.min(0), data.max(0)])
    exact = torch.from_numpy(np.sort(data, 0)), torch.ones(count, dtype=torch.long)
    found, wanted = (fit(RULES[-1], *held, bits, grid) for held in ((few, counts), exact))
    for column in np.flatnonzero(data.any(0)):
        mine, best = (
            quantization_error(data[:, column].astype(float), *ends, bits, grid)
            for ends in ([float(end[column]) for end in both] for both in (found, wanted))
        )
        # A decibel: at worst half of one was found in 5,400 columns.
        assert mine <= 10**0.1 * best + 1e-12


@given(
    st.integers(0, 10**6),
    st.integers(-100, 100),
    st.integers(2, 14),
    st.sampled_from(["affine", "symmetric"]),
)
def test_least_squares_scale_with_the_values(seed: int, power: int, bits: int, grid: Any) -> None:
    """Also where float32 holds the values, but not their squares."""
    rows = torch.from_numpy(values(seed, 120).reshape(60, 2)).sort(0).values
    ones = torch.ones(60, dtype=torch.long)
    for held in (rows, rows[:, 0]):
        scaled = fit(RULES[-1], held * 2.0**power, ones, bits, grid)
        for end, wanted in zip(scaled, fit(RULES[-1], held, ones, bits, grid), strict=True):
            assert torch.equal(end, wanted * 2.0**power)


def test_least_squares_sees_through_the_rounding_of_counts() -> None:
    """Of 16 bits on rounded values, the errors are those of values spread between them."""
    data = values(3, 200_000, tail=1.0)
    stream = streamed(data, 3)
    low, high = fit(RULES[-1], *stream.values(), 14, "affine", 2.0**-7)
    mine = quantization_error(data.astype(np.float64), float(low), float(high), 14, "affine")
    whole = quantization_error(data.astype(np.float64), data.min(), data.max(), 14, "affine")
    # Without the spread, rounded values would fall on grid points and seem free of error.
    assert mine <= 1.1 * whole


@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(["affine", "symmetric"]))
def test_the_searched_error_is_that_of_the_grid(seed: int, bits: int, grid: Any) -> None:
    data = values(seed, 50).astype(np.float64)
    ends = torch.tensor([-0.7, 1.3], dtype=torch.float64)
    mine = squared_error(torch.from_numpy(data), ends[0], ends[1], bits, grid).mean()
    assert float(mine) == pytest.approx(quantization_error(data, -0.7, 1.3, bits, grid))


def test_columns_keep_vectors_evenly() -> None:
    """Each tenth of a long stream gets its tenth of what is kept, within the binomial error."""
    stream = Columns(2**11)
    for part in range(10):
        stream.add(torch.full((700, 2**11), float(part)))
    assert stream.seen == 7000
    assert len(stream.kept) == stream.capacity == 512
    counts = torch.bincount(stream.kept[:, 0].long(), minlength=10)
    assert int((counts - 51.2).abs().max()) < 5 * (512 * 0.1 * 0.9) ** 0.5
    assert (stream.smallest[0], stream.largest[0]) == (0, 9)


def test_columns_of_every_product() -> None:
    x = torch.randn(2, 4, 5, 6)
    cases = [
        (Linear(), torch.randn(3, 6), (3,)),
        (Convolution("conv2d", (1, 1), (0, 0), (1, 1)), torch.randn(7, 4, 2, 2), (7,)),
        (BatchedLinear((4,)), torch.randn(4, 3, 6), (4, 3)),
    ]
    for product, weight, shape in cases:
        y = product.forward(x, weight)
        channels = int(np.prod(shape))
        marked = product.output_channels(torch.arange(float(channels))).expand_as(y)
        rows = columns(product, marked, channels)
        assert torch.equal(rows, torch.arange(float(channels)).expand(len(rows), -1))


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
