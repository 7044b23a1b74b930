from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, summary
from analogize.capture.capture import capture
from analogize.capture.pipeline import run
from analogize.errors import AnalogizeError, CaptureError, PassError
from analogize.targets import load_target


def test_copies_inside_other_modules_keep_ties() -> None:
    layer = nn.Linear(3, 3)
    analog = analogize(nn.Sequential(layer), "ideal")
    outer = nn.ModuleDict({"analog": analog, "tied": nn.Linear(3, 3)})
    outer["tied"].weight = analog.get_parameter("0.weight")
    twin = copy.deepcopy(outer)
    assert twin["tied"].weight is twin["analog"].get_parameter("0.weight")
    assert twin["tied"].weight is not outer["tied"].weight
    assert str(summary(twin["analog"])) == str(summary(analog))


def test_summary_needs_a_rewritten_model() -> None:
    with pytest.raises(AnalogizeError, match="Linear was not rewritten"):
        summary(nn.Linear(2, 2))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class ModeDependent(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.fc(x), training=self.training)


def test_a_model_that_cannot_be_traced_says_why() -> None:
    with pytest.raises(CaptureError, match=r"Branching cannot be traced.*control flow"):
        capture(Branching())


def test_a_graph_for_one_mode_only_is_refused() -> None:
    model = ModeDependent()
    with pytest.raises(CaptureError, match=r"'dropout' differs between train\(\) and eval\(\)"):
        capture(model)
    assert model.training


def test_a_failing_pass_is_named() -> None:
    def first(module: torch.fx.GraphModule, target: object) -> int:
        return 3

    def explode(module: torch.fx.GraphModule, target: object) -> int:
        raise KeyError("lost")

    module = capture(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(PassError, match=r"pass 2 'explode' failed \(after first\): 'lost'"):
        run(module, load_target("ideal"), [first, explode])
    assert run(module, load_target("ideal"), [first]) == ("1 first: 3 rewritten",)
