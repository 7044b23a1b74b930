from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.passes import PIPELINE
from analogize.passes.lower import lower

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
