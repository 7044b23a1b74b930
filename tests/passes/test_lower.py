from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from analogize import analogize, program
from analogize.capture.capture import capture
from analogize.capture.pipeline import run
from analogize.crossbar.ops import operators
from analogize.crossbar.transposed import TransposedArray
from analogize.model.calls import example_call
from analogize.passes import PIPELINE
from analogize.passes.lower import lower
from analogize.passes.mark import mark
from analogize.passes.request import Request
from analogize.targets import load_target

BEFORE_LOWER = PIPELINE[: PIPELINE.index(lower) + 1]


def test_selected_products_become_operators(check_pass: Any) -> None:
    module = check_pass(
        BEFORE_LOWER,
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 2, bias=False)),
        (torch.randn(2, 3, 8, 8),),
        2,
        {"conv2d": 1, "Flatten": 1, "linear": 1},
        {"AnalogOp": 2, "Flatten": 1},
        "paper_resnet32",
    )
    assert isinstance(module.get_submodule("0.analog"), type(operators(module)[0]))


def test_calls_with_other_attributes_are_other_regions_of_one_array(check_pass: Any) -> None:
    class Strides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.conv1d(x, self.kernel, stride=2)
            return nn.functional.conv1d(y, self.kernel)

    module = check_pass(
        BEFORE_LOWER,
        Strides(),
        (torch.randn(2, 3, 16),),
        2,
        {"conv1d": 2},
        {"AnalogOp": 2},
        "paper_resnet32",
    )
    first, second = operators(module)
    assert first.array is second.array
    assert first.product != second.product
    assert first.product.output_padding == (0,), "only what is transposed pads its output"


@pytest.mark.parametrize("capture", ["auto", "fx"])
def test_a_taken_name_is_not_overwritten(capture: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].analog = nn.ReLU()
    analog = analogize(model, "ideal", capture=capture)
    assert isinstance(analog.get_submodule("0.analog"), nn.ReLU)
    assert isinstance(analog.get_submodule("0.analog_2"), type(operators(analog)[0]))


@pytest.mark.parametrize("capture", ["auto", "fx"])
@pytest.mark.parametrize("dac", [None, 8])
@pytest.mark.parametrize("adc", [None, 8])
def test_only_converters_make_an_array_hold_codes(
    capture: Any, dac: int | None, adc: int | None, make_target: Any
) -> None:
    """Without any, sums are in the weights' own units, and nothing is left to rescale."""
    ends = {"range": {"kind": "percentile", "low": 0.0, "high": 100.0}}
    target = make_target(
        weights={"bits": 4, "range": {"kind": "absmax"}},
        dac={"bits": dac, **ends},
        adc={"bits": adc, **ends},
    )
    layer = nn.Linear(8, 4)
    analog = analogize(nn.Sequential(layer), target, [torch.randn(16, 8)], capture=capture)
    program(analog.eval(), 0)
    (op,) = operators(analog)
    largest = float(op.array.chip.abs().max())
    in_weight_units = largest == pytest.approx(float(layer.weight.detach().abs().max()), rel=0.1)
    assert in_weight_units == (dac is None and adc is None)
    assert in_weight_units or largest == round(largest)


class OneWeightTwoWays(nn.Module):
    """The same numbers as a convolution and as a transposed one."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.weight, self.groups = nn.Parameter(torch.randn(4, 4 // groups, 3)), groups

    def forward(self, x: Tensor) -> Tensor:
        down = F.conv1d(x, self.weight, groups=self.groups)
        return F.conv_transpose1d(down, self.weight, groups=self.groups)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_that_lies_in_the_array_two_ways_has_two_arrays(
    groups: int, quantized: Any
) -> None:
    model = OneWeightTwoWays(groups).eval()
    x = torch.randn(2, 4, 8)
    analog = analogize(model, quantized(bits=8, eta=0.1, granularity="channel"), [x])
    first, second = operators(analog)
    assert first.array is not second.array
    # Output channels lie along other axes of the weight, so ranges a channel differ.
    axes = [(1, 2), (0, 2)] if groups == 1 else [(1, 2)]
    for op, others in zip((first, second), axes, strict=False):
        low, high = (end.broadcast_to(model.weight.shape) for end in op.array.limits)
        largest = model.weight.detach().abs().amax(others, keepdim=True)
        assert torch.maximum(-low, high).equal(largest.broadcast_to(model.weight.shape))


@pytest.mark.parametrize("with_example", [False, True])
def test_a_region_knows_its_work_where_an_example_showed_it(with_example: bool) -> None:
    x = torch.randn(2, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    graph = capture(model, None)
    graph.meta["request"] = Request(example_call(x) if with_example else None)
    run(graph, load_target("ideal"), BEFORE_LOWER)

    macs = [op.region.macs for op in operators(graph)]
    assert macs == ([2 * 3 * 4, 2 * 4 * 5] if with_example else [None, None])


@pytest.mark.parametrize(
    ("down", "shares"),
    [
        (lambda m: m.up.t(), True),
        (lambda m: m.up.t()[:3], False),
        (lambda m: m.copy.t(), False),
        (lambda m: m.copy, False),
    ],
)
def test_only_one_matrix_in_memory_read_both_ways_shares_an_array(
    down: Any, shares: bool, make_target: Any
) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 4))
            self.copy = nn.Parameter(self.up.detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.up), down(self))

    target = make_target(array={"rows": 8, "cols": 8, "transposable": True})
    first, second = operators(analogize(Tied(), target, example_inputs=torch.randn(2, 4)))
    assert (getattr(second.array, "home", None) is first.array) == shares


def test_an_output_padding_known_at_run_time_only_reaches_the_operator() -> None:
    class Upwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2, 3, 3))

        def forward(self, x: Tensor, extra: Any) -> Tensor:
            fixed = F.conv_transpose2d(x, self.weight, stride=2, output_padding=1)
            return fixed.sum() + F.conv_transpose2d(x, self.weight, stride=2, output_padding=extra)

    graph, x = fx.symbolic_trace(Upwards()), torch.randn(2, 3, 4, 4)
    assert mark(graph, load_target("ideal")) == lower(graph, load_target("ideal")) == 2
    graph.recompile()
    paddings = [op.product.output_padding for op in operators(graph)]
    assert paddings == [(1, 1), (0, 0)], "what is not known yet stays out of the region"
    for extra in (0, 1, (1,), (1, 0)):
        torch.testing.assert_close(graph(x, extra), Upwards.forward(graph, x, extra))


def test_a_region_says_where_it_stands_in_the_model() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(24, 5, bias=False))
    graph = capture(model, None)
    graph.meta["request"] = Request(example_call(torch.randn(2, 3, 8)))
    run(graph, load_target("ideal"), BEFORE_LOWER)

    first, second = (op.region for op in operators(graph))
    assert (first.index, second.index) == (0, 1)
    assert (first.bias, second.bias) == ("0.bias", None)
    assert (first.input_shape, first.output_shape) == ((2, 3, 8), (2, 4, 6))
    assert (second.input_shape, second.output_shape) == ((2, 24), (2, 5))


def test_weights_without_memory_share_no_array(make_target: Any) -> None:
    """On the meta device all tensors lie at one address."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    target = make_target(array={"rows": 8, "cols": 8, "transposable": True})
    first, second = operators(analogize(model, target))
    assert first.array is not second.array
    assert not isinstance(second.array, TransposedArray)
