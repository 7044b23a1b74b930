"""Everything that is declined keeps its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, regions, summary


class Products(nn.Module):
    """One product of each kind that stays digital, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.analog_one = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.randn(4, 4))
        self.scaled = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("fixed", torch.randn(4, 4))
        self.norm = nn.LayerNorm((3, 4))
        self.words = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.analog_one(x))
        y = F.linear(y, self.fixed) + y
        attention = torch.matmul(y, y.transpose(1, 2)).softmax(-1)
        z: Tensor = attention @ y
        return F.linear(z, y[0, :, :]).sum() + F.linear(z, self.words.weight).sum()


def test_reasons_reach_the_summary() -> None:
    analog = analogize(Products(), "ideal", example_inputs=torch.randn(2, 3, 4))
    reasons = {d.reason for d in summary(analog).digital}
    assert any("buffer" in r for r in reasons)
    assert any("activations" in r for r in reasons)
    assert {r.name for r in regions(analog)} == {"analog_one", "words"}


def test_the_target_keeps_operators_and_names_digital(
    make_target: Callable[..., Target],
) -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Linear(5, 5), nn.Linear(5, 5))
    target = make_target(digital={"operators": ["conv1d"], "names": ["2", "head*"]})
    analog = analogize(model, target)
    assert {r.name for r in regions(analog)} == {"1"}
    reasons = {d.name: d.reason for d in summary(analog).digital}
    assert reasons == {"0": "target 'test' keeps conv1d digital", "2": "kept digital: matches '2'"}


def test_hooked_modules_say_so() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].register_forward_pre_hook(lambda *_: None)
    analog = analogize(model, "ideal")
    (left,) = summary(analog).digital
    assert (left.name, "hooks" in left.reason) == ("0", True)


@pytest.mark.parametrize("bits", [4, 8])
def test_summary_counts_the_work(bits: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    x = torch.randn(2, 3, 8, 8)
    analog = analogize(model, f"pcm_{bits}bit", [x])
    result = summary(analog)
    conv, linear = 2 * 4 * 36 * 27, 2 * 144 * 10
    assert [r.region.macs for r in result.rows] == [conv, linear]
    assert result.total_macs == conv + linear
    assert result.converted_share == 1.0
    assert "converted 100.00%" in str(result)
    assert f"{bits} b" in str(result)
