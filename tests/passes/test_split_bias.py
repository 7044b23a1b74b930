from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from analogize.passes.functionalize import functionalize
from analogize.passes.split_bias import split_bias


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8)])
def test_a_convolutions_bias_becomes_an_addition(check_pass: Any, shape: tuple[int, ...]) -> None:
    check_pass(
        (functionalize, split_bias),
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        (torch.randn(shape),),
        1,
        {"conv2d": 1},
        {"conv2d": 1, "type_as": 1, "view": 1, "add": 1},
    )


def test_a_linear_layers_bias_needs_no_view(check_pass: Any) -> None:
    module = check_pass(
        (functionalize, split_bias),
        nn.Sequential(nn.Linear(3, 4)),
        (torch.randn(5, 3),),
        1,
        {"linear": 1},
        {"linear": 1, "type_as": 1, "add": 1},
    )
    assert "0.bias" in {n.target for n in module.graph.nodes if n.op == "get_attr"}


def test_no_bias_nothing_to_do(check_pass: Any) -> None:
    check_pass(
        (functionalize, split_bias),
        nn.Sequential(nn.ConvTranspose1d(3, 4, 3, bias=False)),
        (torch.randn(2, 3, 8),),
        0,
        {"conv_transpose1d": 1},
        {"conv_transpose1d": 1},
    )
