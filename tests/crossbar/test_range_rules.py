"""The rules of ranges against NumPy, whole, a column, and searched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as pairs
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogize import Target
from analogize.crossbar.fitting import fit, squared_error, thinned
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
