from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from analogize.passes.functionalize import functionalize
from analogize.passes.pad import pad


def test_odd_kernels_need_numbers_only(check_pass: Any) -> None:
    module = check_pass(
        (functionalize, pad),
        nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1))),
        (torch.randn(2, 3, 8, 8),),
        1,
        {"conv2d": 1},
        {"conv2d": 1},
    )
    (node,) = [n for n in module.graph.nodes if n.op == "call_function"]
    assert node.args[4] == (2, 2)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_even_kernels_need_a_pad(check_pass: Any) -> None:
    check_pass(
        (functionalize, pad),
        nn.Sequential(nn.Conv1d(3, 4, 4, padding="same")),
        (torch.randn(2, 3, 8),),
        1,
        {"conv1d": 1},
        {"pad": 1, "conv1d": 1},
    )


def test_valid_is_zero(check_pass: Any) -> None:
    check_pass(
        (functionalize, pad),
        nn.Sequential(nn.Conv3d(3, 4, 2, padding="valid")),
        (torch.randn(2, 3, 4, 4, 4),),
        1,
        {"conv3d": 1},
        {"conv3d": 1},
    )


def test_numbers_stay(check_pass: Any) -> None:
    check_pass(
        (functionalize, pad),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)),
        (torch.randn(2, 3, 4, 4),),
        0,
        {"conv2d": 1},
        {"conv2d": 1},
    )
