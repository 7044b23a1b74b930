"""Ends of ranges: what lies outside has no gradient, and what is no range is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from analogize import Target, analogize
from analogize.crossbar.converter import Converter
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_gradient_ends_where_its_own_range_does(
    granularity: str, dtype: torch.dtype, quantized: Callable[..., Target]
) -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).to(dtype)
    with torch.no_grad():
        # 0.5 and 2 are the largest of their rows, and numbers of every type.
        model[0].weight.copy_(torch.tensor([[0.5, -0.25, 0.125], [2.0, -1.0, 0.5]]))
    x = torch.randn(8, 3).to(dtype)
    analog = analogize(model, quantized(bits=8, granularity=granularity, grid="symmetric"), [x])
    (op,) = operators(analog)
    weight = torch.tensor([[0.5, 0.625, -0.625], [2.0, 2.5, -2.5]]).to(dtype)
    grad = torch.ones_like(weight)
    row = [1.0, 0.0, 0.0] if granularity == "channel" else [1.0, 1.0, 1.0]
    expected = torch.tensor([row, [1.0, 0.0, 0.0]]).to(dtype)
    assert op.array.mask_gradient(grad, weight).equal(expected)
    # Either end counts as inside.
    assert op.array.mask_gradient(grad, -weight)[1, 0] == 1


@pytest.mark.parametrize("grid", ["affine", "symmetric"])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, float("inf")),
        (float("-inf"), 0.0),
        (float("-inf"), float("inf")),
        (float("nan"), 1.0),
        (0.0, float("nan")),
        (1.0, 1.0),
        (2.0, 1.0),
        ([0.0, 0.0], [1.0, float("inf")]),
    ],
)
def test_what_is_no_range_is_refused_and_changes_nothing(
    low: Any, high: Any, grid: str, quantized: Callable[..., Target]
) -> None:
    x = torch.randn(8, 3)
    analog = analogize(nn.Sequential(nn.Linear(3, 2)), quantized(bits=8, grid=grid), [x])
    converter: Converter = operators(analog)[0].dac
    before = converter.range.clone()
    with pytest.raises(CalibrationError, match="no two different finite values"):
        converter.calibrate(torch.tensor(low), torch.tensor(high))
    assert converter.range.equal(before)


def test_a_printed_model_tells_bits_and_ranges(make_target: Callable[..., Target]) -> None:
    ends = {"kind": "fixed", "min": -1.0, "max": 1.0}
    target = make_target(dac={"bits": 6, "range": ends}, adc={"bits": None})
    (op,) = operators(analogize(nn.Linear(2, 2), target))
    assert op.dac.extra_repr().startswith("6 bits")
    assert op.adc.extra_repr() == "no bits"


def test_a_range_a_column_is_printed_as_so_many(make_target: Callable[..., Target]) -> None:
    ranges = {"bits": 8, "range": {"kind": "minmax"}, "granularity": "channel"}
    target = make_target(weights={"bits": 8, "range": {"kind": "absmax"}}, adc=ranges)
    analog = analogize(nn.Linear(6, 4), target, [torch.randn(8, 6)])
    assert "(adc): Converter(8 bits, 4 channels)" in str(analog)


def test_a_bound_without_bits_bounds_nothing(make_target: Callable[..., Target]) -> None:
    target = make_target(adc={"bits": None, "range": {"kind": "bound", "bound": 0.01}})
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    analog = analogize(nn.Sequential(layer), target, [x])
    (op,) = operators(analog)
    assert op.adc.bound is None
    torch.testing.assert_close(analog(x), layer(x))
