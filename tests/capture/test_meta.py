"""Models on the meta device are rewritten without values, and find their ranges once these come."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from analogize import analogize, calibrate, clip_weights, noise_mode, program
from analogize.crossbar.chip import regions
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError
from analogize.targets.load import names
from analogize.targets.spec import StdRange, Target, Weights


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def target(**options: object) -> Target:
    weights = Weights(range=StdRange(multiple=1.0), bits=4, **options)  # type: ignore[arg-type]
    return Target(name="ranged", weights=weights)


@pytest.mark.parametrize("capture", ["fx", "hierarchical"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("assign", [True, False])
def test_ranges_come_with_the_weights(capture: str, granularity: str, assign: bool) -> None:
    with torch.device("meta"):
        model = make()
    chosen = target(granularity=granularity)
    analog = analogize(model, chosen, capture=capture)  # type: ignore[arg-type]
    assert all(t.is_meta for t in (*analog.parameters(), *operators(analog)[0].array.buffers()))
    real = make()
    expected = analogize(real, chosen, capture=capture)  # type: ignore[arg-type]
    if not assign:
        analog.to_empty(device="cpu")
    weights = {k: v for k, v in real.state_dict().items() if "analog" not in k}
    analog.load_state_dict(weights, strict=False, assign=assign)
    x = torch.randn(5, 3)
    assert torch.equal(analog.eval()(x), expected.eval()(x))
    assert not torch.equal(analog(x), make()(x))


def test_an_example_measures_without_values() -> None:
    with torch.device("meta"):
        model = make()
    analog = analogize(model, "ideal", example_inputs=torch.randn(5, 3))
    assert [r.macs for r in regions(analog)] == [60, 40]


def test_programming_and_clipping_find_the_range() -> None:
    for act in (lambda m: program(m, 0), clip_weights):
        with torch.device("meta"):
            model = make()
        analog = analogize(model, target()).to_empty(device="cpu").eval()
        with torch.no_grad():
            for parameter in analog.parameters():
                parameter.normal_()
        act(analog)
        op = operators(analog)[0]
        weight = analog.get_parameter("0.weight")
        assert op.array.limits is not None
        with noise_mode(analog, "off"):
            analog(torch.randn(2, 3))
        if act is clip_weights:
            assert float(weight.detach().max()) <= op.array.limits[1]


def test_fixed_converter_ranges_survive_to_empty() -> None:
    fixed = {"bits": 6, "range": {"kind": "fixed", "min": -2.0, "max": 2.0}}
    chosen = Target.model_validate({"schema": 1, "name": "fixed", "dac": fixed})
    with torch.device("meta"):
        model = make()
    analog = analogize(model, chosen).to_empty(device="cpu")
    assert [op.dac.range.tolist() for op in operators(analog)] == [[-2, 2], [-2, 2]]


def test_percentile_ranges_still_need_calibration() -> None:
    with torch.device("meta"):
        model = make()
    analog = analogize(model, "pcm_8bit").to_empty(device="cpu")
    analog.load_state_dict(make().state_dict(), strict=False)
    x = torch.randn(20, 3)
    with pytest.raises(CalibrationError, match="never calibrated"):
        analog(x)
    calibrate(analog, [x])
    assert torch.isfinite(analog(x)).all()


@pytest.mark.parametrize("name", names())
def test_a_model_without_weights_can_be_printed(name: str) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(4, 4, 3), nn.Linear(4, 4))
    analog = analogize(model, name)
    says = "no range" if name == "ideal" else "a range that waits for weights"
    assert str(analog).count(says) == 3
    assert "nan" not in str(analog)
    assert says not in str(analogize(nn.Linear(4, 4), "pcm_8bit"))
