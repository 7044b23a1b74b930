"""Everything that is declined keeps its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from analogize import Target, analogize, regions, summary
from analogize.capture.capture import capture
from analogize.capture.pipeline import run
from analogize.passes.choice import DISTANCE, Declined
from analogize.passes.functionalize import functionalize
from analogize.passes.mark import mark
from analogize.passes.split_bias import split_bias
from analogize.targets import load_target


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
    analog = analogize(Products(), "ideal", example_inputs=torch.randn(2, 3, 4), capture="fx")
    reasons = {d.reason for d in summary(analog).digital}
    assert any("buffer" in r for r in reasons)
    assert any("activations" in r for r in reasons)
    assert not {"LayerNorm", "Embedding"} & {d.operator for d in summary(analog).digital}
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
    analog = analogize(model, "ideal", capture="fx")
    (left,) = summary(analog).digital
    assert (left.name, "hooks" in left.reason) == ("0", True)
    assert not summary(analogize(model, "ideal")).digital


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


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.analog_one = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.randn(4, 4))
        self.scaled = nn.Parameter(torch.randn(4, 4))
        self.mixed = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.analog_one(x)
        of_weights = F.linear(self.scaled, self.table)
        scaled = F.linear(y, self.scaled * 2)
        product = y @ self.table
        gram = torch.einsum("bi,bo->io", y, y)
        return scaled + product + of_weights.sum() + self.mixed(y, y) + gram.sum()


def test_every_reason_is_the_right_one() -> None:
    graph, target = capture(Computed()), load_target("ideal")
    run(graph, target, [functionalize, split_bias])
    assert mark(graph, target) == 1
    records = [n.meta["analog"] for n in graph.graph.nodes if "analog" in n.meta]
    declined = {(r.operator, r.reason) for r in records if isinstance(r, Declined)}
    assert declined == {
        ("linear", "its input is stored too; nothing is computed online"),
        ("linear", "its weight is computed from parameters"),
        ("matmul", "'matmul' with a stored weight is not supported; use nn.Linear or F.linear"),
        ("einsum", "both operands are activations"),
        ("Bilinear", "Bilinear is not supported; write it with nn.Linear or F.linear"),
    }


def test_attributes_known_at_run_time_only_are_declined() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 2))

        def forward(self, x: Tensor, step: int) -> Tensor:
            return F.conv1d(x, self.weight, stride=step)

    graph = fx.symbolic_trace(Strided())
    assert mark(graph, load_target("ideal")) == 0
    (record,) = (n.meta["analog"] for n in graph.graph.nodes if "analog" in n.meta)
    assert record.reason == "its stride is computed at run time"


class Related(nn.Module):
    """Distances and products between activations, between weights, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        across = torch.cdist(x, self.table) + F.cosine_similarity(x, self.table[:1]).sum()
        inside = torch.cdist(x, x).sum() + torch.cdist(self.table, self.table).sum()
        return F.linear(x, x[:4]) + across + inside + x.mm(self.table)


def test_only_what_meets_a_stored_tensor_is_a_distance_to_one() -> None:
    graph, target = fx.symbolic_trace(Related()), load_target("ideal")
    assert mark(graph, target) == 0
    records = [n.meta["analog"] for n in graph.graph.nodes if "analog" in n.meta]
    assert [(r.operator, r.reason) for r in records] == [
        ("cdist", DISTANCE),
        ("cosine_similarity", DISTANCE),
        ("linear", "both are activations"),
        ("mm", "'mm' with a stored weight is not supported; use nn.Linear or F.linear"),
    ]


class Scale(nn.Module):
    """A leaf whose only parameters are vectors."""

    __module__ = "torch.nn"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def test_a_module_of_vectors_is_no_product() -> None:
    graph = fx.symbolic_trace(nn.Sequential(Scale(), nn.LSTM(4, 4)))
    assert mark(graph, load_target("ideal")) == 0
    (record,) = (n.meta["analog"] for n in graph.graph.nodes if "analog" in n.meta)
    assert record.operator == "LSTM"
