"""Gradients of learned ranges: by finite differences, by the published rule, by autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analogize import Target, analogize, learned_ranges, noise_mode
from analogize.crossbar.learned import Learning, gradient, rest
from analogize.crossbar.ops import AnalogOp, operators
from analogize.targets import spec

Make = Callable[..., Target]
LSQ = {"kind": "learned", "gradient": "lsq", "decay": 0.0}
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
