from __future__ import annotations

from typing import Any

import torch
from torch import nn

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


def test_a_taken_name_is_not_overwritten() -> None:
    from analogize import analogize

    model = nn.Sequential(nn.Linear(2, 2))
    model[0].analog = nn.ReLU()
    analog = analogize(model, "ideal")
    assert isinstance(analog.get_submodule("0.analog"), nn.ReLU)
    assert isinstance(analog.get_submodule("0.analog_2"), type(operators(analog)[0]))
