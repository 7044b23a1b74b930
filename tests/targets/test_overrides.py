"""Other settings for some regions of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, noise_mode, summary
from analogize.crossbar.ops import operators
from analogize.errors import PassError, TargetError
from analogize.targets import load_target
from analogize.targets.overrides import settings_of
from analogize.targets.spec import PercentileRange, Target

FILE = """
schema: 1
extends: pcm_8bit
overrides:
  - regions: [first, "blocks.*"]
    adc: {bits: 6}
    noise: []
  - regions: [first]
    weights: {bits: 4, range: {kind: std, multiple: 3.0}}
    adc: {range: {kind: percentile, low: 1.0}}
"""


def load(folder: Path, text: str) -> Target:
    file = folder / "mine.yaml"
    file.write_text(text)
    return load_target(file)


def test_what_is_given_lies_over_the_target(tmp_path: Path) -> None:
    target = load(tmp_path, FILE)
    assert settings_of(target, "last") is target
    block, first = settings_of(target, "blocks.3"), settings_of(target, "first")
    assert (block.adc.bits, block.adc.range, block.noise) == (6, target.adc.range, ())
    assert (block.weights, block.dac, block.array) == (target.weights, target.dac, target.array)
    assert (first.adc.bits, first.adc.range) == (6, PercentileRange(low=1.0, high=99.9))
    assert (first.weights.bits, first.weights.grid) == (4, target.weights.grid)
    again = load(tmp_path, target.to_yaml())
    assert again.overrides == target.overrides
    assert settings_of(again, "first").adc == first.adc


class Model(nn.Module):
    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches = branches
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        if self.branches and x.isnan().any():
            return x
        x = self.first(x)
        for block in self.blocks:
            x = F.relu(block(x))
        y: Tensor = self.last(x)
        return y


@pytest.mark.parametrize("branches", [False, True])
def test_regions_get_their_settings(branches: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4)
    model = Model(branches)
    analog = analogize(model, load(tmp_path, FILE), [x]).eval()
    bits = {op.region.name: (op.array.bits, op.adc.bits) for op in operators(analog)}
    assert bits == {"first": (4, 6), "blocks.0": (8, 6), "blocks.1": (8, 6), "last": (8, 8)}
    noise = {row.region.name: row.noise for row in summary(analog).rows}
    assert noise == {"first": "none", "blocks.0": "none", "blocks.1": "none", "last": "eta 0.017"}
    with torch.no_grad():
        # The last region alone is noisy.
        hidden = []
        analog.get_submodule("last.analog").register_forward_hook(
            lambda m, a, y: hidden.append(a[0])
        )
        assert not torch.equal(analog(x), analog(x))
        assert torch.equal(*hidden)
        with noise_mode(analog, "off"):
            assert torch.equal(analog(x), analog(x))


def test_an_override_must_match(tmp_path: Path) -> None:
    target = load(tmp_path, FILE.replace("[first]", "[frist, nothing]"))
    with pytest.raises(PassError, match=r"overrides.1: 'frist', 'nothing' matches .* 'first'\?"):
        analogize(Model(False), target, [torch.randn(5, 4)])


def test_regions_of_one_array_need_one_setting() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    fields = {
        "schema": 1,
        "name": "torn",
        "overrides": [{"regions": ["1"], "weights": {"range": {"kind": "absmax"}}}],
    }
    with pytest.raises(PassError, match="'0' and '1' share one array"):
        analogize(model, Target.model_validate(fields))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regions: [a], adc: {bits: 60}", r"overrides\[0\].adc.bits: 60 is not allowed"),
        ("regions: [a], weights: {range: null}", r"overrides\[0\].weights.bits.*needs a range"),
        ("regions: [a], adx: {bits: 6}", r"overrides\[0\].adx: unknown key; did you mean 'adc'"),
        ("adc: {bits: 6}", r"overrides\[0\].regions: missing"),
        ("regions: []", r"overrides\[0\].regions: \[\] is not allowed"),
    ],
)
def test_mistakes_are_told_with_their_place(override: str, message: str, tmp_path: Path) -> None:
    text = f"schema: 1\nextends: pcm_8bit\noverrides: [{{{override}}}]\n"
    with pytest.raises(TargetError, match=rf"mine.yaml:3: {message}"):
        load(tmp_path, text)


def test_overrides_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    text = """
schema: 1
overrides:
  - {regions: ["*"], weights: {range: {kind: absmax}, bits: 8}}
  - {regions: [last], weights: {bits: null}}
  - {regions: [last, first], weights: {range: null}, noise: []}
"""
    target = load(tmp_path, text)
    assert settings_of(target, "last").weights.bits is None
    with pytest.raises(TargetError, match=r"region 'first' contradict.*weights.bits"):
        settings_of(target, "first")
