"""The summary names what a target holds badly, and the setting that helps."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analogize import Target, analogize, summary
from analogize.crossbar.ops import operators
from analogize.report.report import write_report

Make = Callable[..., Target]
EIGHT: dict[str, Any] = {"bits": 8, "range": {"kind": "minmax"}}


def outliers(size: float = 175.0) -> nn.Linear:
    """One weight as many standard deviations out as is found in a pretrained encoder."""
    layer = nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight[3, 5] = size
    return layer


def test_clipped_weights_are_named_with_what_would_help(make_target: Make) -> None:
    two = {"bits": 8, "range": {"kind": "std", "multiple": 2.0}, "grid": "symmetric"}
    x = torch.randn(100, 64)
    found = summary(analogize(outliers(), make_target(weights=two, dac=EIGHT, adc=EIGHT), [x]))
    (loss,) = found.losses
    assert loss.part == "weights"
    assert loss.quality < 5
    assert "granularity: channel" in loss.words
    assert "100% of analog multiply-accumulates" in str(found)
    helped = two | {"range": {"kind": "absmax"}, "granularity": "channel"}
    fine = analogize(outliers(), make_target(weights=helped, dac=EIGHT, adc=EIGHT), [x])
    assert summary(fine).losses == ()


def test_one_noisy_scale_cannot_hold_an_outlier() -> None:
    converters = {"dac": {"bits": None}, "adc": {"bits": None}}
    fields = Target.model_validate({"schema": 1, "name": "t"}).model_dump(by_alias=True)
    noisy = {
        "weights": {"range": {"kind": "absmax"}},
        "noise": [{"model": "gaussian", "eta": 0.01}],
    }
    target = Target.model_validate(fields | converters | noisy)
    (loss,) = summary(analogize(outliers(), target)).losses
    assert "granularity: channel" in loss.words
    assert summary(analogize(nn.Linear(64, 32), target)).losses == ()


@pytest.mark.parametrize("kind", ["percentile", "minmax", "mse", "std"])
def test_the_quality_of_a_converter_is_measured(make_target: Make, kind: str) -> None:
    x = torch.randn(500, 64)
    x[0, 0] = 1000.0
    rule = {"kind": kind} | ({"multiple": 2.0} if kind == "std" else {})
    analog = analogize(nn.Linear(64, 32), make_target(dac={"bits": 8, "range": rule}), [x])
    (op,) = operators(analog)
    held = op.dac(x) * op.dac.scale
    expected = 10 * torch.log10(x.square().sum() / (x - held).square().sum())
    assert op.dac.quality == pytest.approx(float(expected), abs=0.2)
    parts = [loss.part for loss in summary(analog).losses]
    assert parts == (["DAC"] if float(expected) < 15 else [])
    if kind == "percentile":
        assert "dac.range {kind: m" in summary(analog).losses[0].words


def test_the_report_tells_them_too(make_target: Make, tmp_path: Path) -> None:
    two = {"bits": 8, "range": {"kind": "std", "multiple": 2.0}, "grid": "symmetric"}
    target = make_target(weights=two, dac=EIGHT, adc=EIGHT)
    model = nn.Sequential(outliers(), nn.ReLU(), nn.Linear(32, 2))
    analog = analogize(model, target, [torch.randn(100, 64)])
    write_report(tmp_path / "r.html", analog)
    text = " ".join((tmp_path / "r.html").read_text().split())
    assert "Held too coarsely" in text
    (loss, *_) = summary(analog).losses
    assert escape(loss.words) in text
    assert "of analog multiply-accumulates have weights or activations" in text

    silenced = nn.Sequential(nn.Linear(64, 32), nn.Threshold(1e9, 0.0), nn.Linear(32, 2))
    wide = make_target(dac=EIGHT, adc=EIGHT)
    with pytest.warns(UserWarning, match="zeros"):
        silent = analogize(silenced, wide, [torch.randn(100, 64)])
    write_report(tmp_path / "w.html", silent)
    assert "waits for a range" in (tmp_path / "w.html").read_text()
    assert "Held too coarsely" not in (tmp_path / "w.html").read_text()
