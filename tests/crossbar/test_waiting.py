"""Calibration data that give no range: the region waits, or takes what the data do give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, calibrate, export_onnx, noise_mode, program, summary
from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import CalibrationError

Make = Callable[..., Target]
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


class Dead(nn.Module):
    """A part that only zeros reach, beside one that data reach."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.hidden, self.out = nn.Linear(8, 3), nn.Linear(8, 5), nn.Linear(5, 3)
        self.hidden.bias.data.fill_(-100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.live(x) + self.out(self.hidden(x).relu())  # type: ignore[no-any-return]


def converters(rule: str = "percentile", **more: Any) -> dict[str, Any]:
    kind = {"std": {"multiple": 3.0}}.get(rule, {})
    return {"bits": 8, "range": {"kind": rule} | kind} | more


@pytest.fixture
def target(make_target: Make) -> Target:
    noise = [{"model": "gaussian", "eta": 0.01}]
    weights = {"range": {"kind": "absmax"}}
    return make_target(weights=weights, dac=converters(), adc=converters(), noise=noise)


def waiting(model: nn.Module, name: str) -> AnalogOp:
    return next(op for op in operators(model) if op.region.name == name)


@pytest.mark.parametrize("rule", ["percentile", "minmax", "std", "mse"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_dead_region_waits_and_the_others_are_analog(
    rule: str, granularity: str, make_target: Make
) -> None:
    adc = converters(rule, granularity=granularity)
    model = Dead().eval()
    with pytest.warns(UserWarning, match=r"the ADC of region 'out' met nothing but zeros"):
        analog = analogize(model, make_target(dac=converters(rule), adc=adc), [X])
    out = waiting(analog, "out")
    assert out.dac.waits
    assert out.adc.waits
    assert [op.is_calibrated for op in operators(analog)] == [True, True, False]
    torch.testing.assert_close(analog(X), model(X), rtol=0.05, atol=0.1)


def test_it_runs_on_zeros_refuses_anything_else_and_works_once_calibrated(target: Target) -> None:
    with pytest.warns(UserWarning, match="nothing but zeros"):
        analog = analogize(Dead(), target, [X]).eval()
    out = waiting(analog, "out")
    zeros = torch.zeros(2, 5, requires_grad=True)
    y = analog.out(zeros)
    assert y.equal(analog.out.bias.expand(2, 3))
    y.sum().backward()  # training moves what waits
    program(analog, 0)
    analog(X)
    with pytest.raises(CalibrationError, match=r"region 'out'.*DAC.*up to 2.*calibrate"):
        analog.out(zeros + 2)
    with pytest.raises(CalibrationError, match="region 'out'"):
        analog.out(zeros * torch.nan)
    analog.hidden.bias.data.zero_()
    calibrate(analog, [X])
    program(analog, 0)
    assert out.is_calibrated
    assert analog(X).isfinite().all()


def test_waiting_is_told_and_saved(target: Target, tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match="nothing but zeros"):
        analog = analogize(Dead(), target, [X]).eval()
    told = summary(analog)
    assert "waits" in told.rows[2].dac
    assert "out waits for a range" in " ".join(str(told).split())
    other = analogize(Dead(), target).eval()
    other.load_state_dict(analog.state_dict())
    assert waiting(other, "out").dac.waits
    assert other.live.analog.is_calibrated
    with pytest.raises(CalibrationError, match="region 'out' has a converter without a range"):
        export_onnx(analog, tmp_path / "m.onnx", X)


def test_a_dead_region_keeps_the_range_that_it_has(target: Target) -> None:
    model = Dead()
    model.hidden.bias.data.zero_()
    analog = analogize(model, target, [X])
    out = waiting(analog, "out")
    before = out.dac.range.clone()
    analog.hidden.bias.data.fill_(-100.0)
    with pytest.warns(UserWarning, match="keep the range that they had"):
        calibrate(analog, [X])
    assert out.dac.range.equal(before)


def test_a_part_that_no_batch_reaches_waits(target: Target) -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if x.shape[-1] == 4 else self.a(x)  # type: ignore[no-any-return]

    whole = analogize(Chosen(), target)
    with pytest.warns(UserWarning, match=r"region 'b' met nothing but zeros, if anything"):
        calibrate(whole, [X])
    assert whole(X).shape == (64, 4)
    with pytest.raises(CalibrationError, match=r"region 'b'.*met nothing but zeros"):
        whole(torch.ones(1, 4))


@pytest.mark.parametrize("name", ["pcm_8bit", "pcm_joshi2020"])
def test_one_hot_data_have_the_range_of_their_extremes(name: str) -> None:
    model = nn.Linear(5000, 3).eval()
    x = F.one_hot(torch.arange(64), 5000).float()
    with pytest.warns(UserWarning, match="percentiles"):
        analog = analogize(model, name, calibration=[x])
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(x), model(x), rtol=0.05, atol=0.01)


def test_columns_whose_percentiles_coincide_have_that_of_their_extremes(make_target: Make) -> None:
    adc = converters("percentile", granularity="channel")
    layer = nn.Linear(2000, 3, bias=False)
    layer.weight.data[1] = 0
    layer.weight.data[1, 7] = 4.0
    x = torch.eye(2000)
    x[:, 0] = torch.linspace(-1, 1, 2000)
    with pytest.warns(UserWarning, match="percentiles"):
        (op,) = operators(analogize(layer, make_target(dac=converters("minmax"), adc=adc), [x]))
    assert op.adc.range[:, 1].tolist() == [0.0, 4.0]
    assert op.adc.range[1, 0] < 0.1


@pytest.mark.parametrize("value", [3.0, -0.5])
def test_a_constant_spans_what_lies_between_it_and_zero(value: float, target: Target) -> None:
    layer, x = nn.Linear(4, 3, bias=False), torch.full((6, 4), value)
    with pytest.warns(UserWarning, match=r"DAC of region 'weight'.* met one constant"):
        analog = analogize(layer, target, [x])
    (op,) = operators(analog)
    assert op.dac.range.tolist() == sorted([0.0, value])
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(x), layer(x), rtol=0.02, atol=0.02)


def test_data_of_zeros_alone_are_refused(target: Target) -> None:
    for value in (0.0, 1e-40):
        with pytest.raises(CalibrationError, match=r"nothing but zeros \(up to 1e-30\)"):
            analogize(nn.Linear(4, 3), target, [torch.full((6, 4), value)])


@pytest.mark.parametrize("rule", ["percentile", "minmax", "std", "mse"])
def test_what_float32_cannot_step_through_counts_as_zero(rule: str, make_target: Make) -> None:
    model = Dead().eval()
    model.hidden.weight.data = 1e-44 * torch.randn(8, 5).sign().t()
    model.hidden.bias.data.zero_()
    both = make_target(
        weights={"bits": 8, "range": {"kind": "std", "multiple": 2.0}},
        dac=converters(rule),
        adc=converters(rule),
    )
    with pytest.warns(UserWarning, match="nothing but zeros"):
        analog = analogize(model, both, [X])
    assert [d.name for d in summary(analog).digital] == ["hidden"]
    assert analog(X).isfinite().all()
