from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize.passes.functionalize import functionalize, output_padding_for


def test_modules_become_functions(check_pass: Any) -> None:
    check_pass(
        (functionalize,),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)),
        (torch.randn(2, 3, 8, 8),),
        2,
        {"Conv2d": 1, "ReLU": 1, "Flatten": 1, "Linear": 1},
        {"conv2d": 1, "ReLU": 1, "Flatten": 1, "linear": 1},
    )


def test_padding_modes_become_pads(check_pass: Any) -> None:
    check_pass(
        (functionalize,),
        nn.Sequential(nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular")),
        (torch.randn(2, 3, 8),),
        1,
        {"Conv1d": 1},
        {"pad": 1, "conv1d": 1},
    )


def test_transposed_convolutions_keep_their_options(check_pass: Any) -> None:
    check_pass(
        (functionalize,),
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2)),
        (torch.randn(2, 4, 5, 5),),
        1,
        {"ConvTranspose2d": 1},
        {"conv_transpose2d": 1},
    )


def test_shared_modules_are_calls_on_one_weight(check_pass: Any) -> None:
    shared = nn.Linear(4, 4)
    module = check_pass(
        (functionalize,),
        nn.Sequential(shared, nn.ReLU(), shared),
        (torch.randn(2, 4),),
        2,
        {"Linear": 2, "ReLU": 1},
        {"linear": 2, "ReLU": 1},
    )
    weights = {n.args[1].target for n in module.graph.nodes if n.target is F.linear}
    assert weights == {"0.weight"}


class Scaled(nn.Linear):
    """A subclass with its own forward, which must not be taken for the stock one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight, self.bias)


def test_subclasses_are_traced_through(check_pass: Any) -> None:
    check_pass(
        (functionalize,),
        nn.Sequential(Scaled(3, 2)),
        (torch.randn(4, 3),),
        0,
        {"mul": 1, "linear": 1},
        {"mul": 1, "linear": 1},
    )


def test_modules_with_hooks_stay(check_pass: Any) -> None:
    seen: list[int] = []
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: seen.append(1))
    check_pass(
        (functionalize,),
        nn.Sequential(layer),
        (torch.randn(4, 3),),
        0,
        {"Linear": 1},
        {"Linear": 1},
    )
    assert seen


@pytest.mark.parametrize("size", [9, 10])
def test_output_padding_makes_the_size(size: int) -> None:
    x = torch.randn(1, 4, 5)
    padding = output_padding_for(x, (size,), (2,), (1,), (3,), (1,))
    y = F.conv_transpose1d(x, torch.randn(4, 2, 3), None, 2, 1, padding)
    assert y.shape[-1] == size


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"between \[9\] and \[10\]"):
        output_padding_for(torch.zeros(1, 4, 5), (11,), (2,), (1,), (3,), (1,))
