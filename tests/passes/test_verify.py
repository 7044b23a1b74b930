"""What verification compares: how many values, of which kinds, shapes, types and sizes."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from analogize.capture.capture import capture
from analogize.errors import PassError
from analogize.model.calls import Call
from analogize.passes.request import Request
from analogize.passes.verify import require_equal, verify
from analogize.targets import load_target

ONE, TWO, INF = torch.ones(2), torch.full((2,), 2.0), float("inf")


@dataclass
class Pair:
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        ((ONE,), (ONE, ONE), "returns 1 values, not 2"),
        ((ONE, ONE), ONE, "returns 2 values, not 1"),
        ({"a": ONE, "b": TWO}, {"a": ONE}, "returns 2 values, not 1"),
        ((ONE, 3), (ONE, ONE), "output 1 is a int, not a Tensor"),
        ((3, ONE), (ONE, ONE), "output 0 is a int, not a Tensor"),
        (torch.ones(3), ONE, r"output 0: shape \(3,\), not \(2,\)"),
        (ONE.double(), ONE, "output 0: torch.float64, not torch.float32"),
        ((ONE, TWO), (ONE, ONE), "output 1 of the rewritten model differs .* by 1.0e\\+00"),
        (Pair(ONE, [TWO]), Pair(ONE, [ONE]), "output 1 of the rewritten model differs"),
        (ONE * float("nan"), ONE, "output 0 of the rewritten model differs"),
        (ONE * float("inf"), ONE, "output 0 of the rewritten model differs"),
        # Each type by its own rounding, with room for sums in another order.
        (ONE.double() * (1 + 1e-8), ONE.double(), "output 0 of the rewritten model differs"),
        (ONE * (1 + 1e-3), ONE, "output 0 of the rewritten model differs"),
        # Against the largest value, however small or large it is.
        (ONE * 1.01e-3, ONE * 1e-3, "output 0 of the rewritten model differs"),
        (torch.tensor([1.01e-3, INF]), torch.tensor([1e-3, INF]), "output 0 of the rewritten"),
        (UserDict(a=ONE, b=TWO), UserDict(a=ONE, b=ONE), "output 1 of the rewritten model differs"),
        (ONE.half() * 1.05, ONE.half(), "output 0 of the rewritten model differs"),
        (ONE.bfloat16() * 1.25, ONE.bfloat16(), "output 0 of the rewritten model differs"),
    ],
)
def test_a_difference_is_named(actual: Any, expected: Any, message: str) -> None:
    with pytest.raises(PassError, match=message):
        require_equal(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (Pair(ONE, {"a": TWO}), Pair(ONE, {"a": TWO})),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")])),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        # Additions in another order: 2^-23 and little more.
        (ONE * (1 + 1e-6), ONE),
        (ONE * 1e3 * (1 + 1e-6), ONE * 1e3),
        (ONE.double() * (1 + 1e-10), ONE.double()),
        (ONE.half() * (1 + 2**-9), ONE.half()),
        (ONE.bfloat16() * (1 + 2**-5), ONE.bfloat16()),
    ],
)
def test_rounding_and_whole_numbers_pass(actual: Any, expected: Any) -> None:
    require_equal(actual, expected)


def test_a_graph_that_became_another_function_is_refused() -> None:
    """The pass itself: what the caller's example gives is compared with what it gave before."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    module, target = capture(model), load_target("ideal")
    x = torch.ones(1, 3)
    wrong = Request(example=Call((x,)), expected=model(x).detach() + 1)
    right = Request(example=Call((x,)), expected=model(x).detach())
    module.meta["request"] = wrong
    with pytest.raises(PassError, match=r"output 0 of the rewritten model differs .* by 1\.0e\+00"):
        verify(module, target)
    module.meta["request"] = right
    assert verify(module, target) == 0
    module.meta["request"] = Request()
    assert verify(module, target) == 0
