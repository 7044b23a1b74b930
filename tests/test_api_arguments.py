"""What analogize() is asked for: what stays digital by choice, and what it refuses and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from analogize import Target, analogize, regions, summary
from analogize.errors import CalibrationError, CaptureError, PassError, TargetError

Make = Callable[..., Target]


@pytest.mark.parametrize("capture", ["fx", "hierarchical", "intercept"])
def test_the_first_and_the_last_product_stay_digital_by_name(
    capture: str, make_target: Make
) -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]).eval()
    x = torch.randn(2, 4)
    asked = analogize(model, "ideal", example_inputs=x, digital="ends", capture=capture)  # type: ignore[arg-type]
    of_target = make_target(digital={"ends": True})
    given = analogize(model, of_target, example_inputs=x, capture=capture)  # type: ignore[arg-type]
    for analog in (asked, given):
        assert [r.name for r in regions(analog)] == ["1", "2"]
        found = summary(analog)
        assert {d.reason for d in found.digital} == {"kept digital: matches ends"}
        assert found.converted_share == 0.5
    both = analogize(model, "ideal", digital=["ends", "0"])
    assert [r.name for r in regions(both)] == ["2"]
    with pytest.raises(CaptureError, match="matches ends"):
        analogize(nn.Linear(4, 4), "ideal", digital="ends")


def test_user_choices_stay_digital() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv1d(3, 3, 1))
    chosen = [
        (("0",), {"0"}),
        (("[01]",), {"0", "1"}),
        ((nn.Conv1d,), {"2"}),
        ((lambda name, module: name == "1",), {"1"}),
    ]
    for digital, expected in chosen:
        analog = analogize(model, "ideal", digital=digital)  # type: ignore[arg-type]
        assert {d.name for d in summary(analog).digital} == expected
        assert {r.name for r in regions(analog)} == {"0", "1", "2"} - expected
    with pytest.raises(PassError, match=r"digital: '3' matches no region.*'?0'?"):
        analogize(model, "ideal", digital=["3"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Sequential(nn.ReLU()), "ideal"), CaptureError, "no operator that can become analog"),
        ((nn.Linear(2, 2), "pmc_4bit"), TargetError, "pcm_4bit"),
        (("resnet18", "ideal"), CaptureError, "expected an nn.Module, got str"),
        ((nn.Sequential(nn.Linear(2, 2)), "pcm_8bit", []), CalibrationError, "no batch"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        analogize(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(PassError, match=r"region '1'.*NaN or infinite"):
        analogize(model, "paper_resnet32")


def test_weights_must_span_a_range() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].weight, 0.4)
    with pytest.raises(PassError, match=r"region '0'.*W_min must be below W_max"):
        analogize(model, "paper_resnet32")


def test_analog_models_are_refused() -> None:
    analog = analogize(nn.Sequential(nn.Linear(2, 2)), "ideal")
    with pytest.raises(CaptureError, match="analog already"):
        analogize(analog, "ideal")


def test_the_models_own_failure_is_told_apart() -> None:
    with pytest.raises(CaptureError, match="the model itself fails on the example inputs"):
        analogize(nn.Sequential(nn.Linear(2, 2)), "ideal", example_inputs=torch.ones(1, 3))
