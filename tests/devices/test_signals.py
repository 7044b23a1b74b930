"""Drivers, columns and converters: formulas by hand, moments, and the same chip everywhere."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, export_onnx, load_chip, noise_mode, program, read_chip, save_chip
from analogize.crossbar.chip_data import Chip
from analogize.errors import ChipError, ExportError
from analogize.evaluation.many_chips import program_many, run_many
from analogize.targets.spec import Target

DAC = {"bits": 8, "grid": "symmetric", "range": {"kind": "fixed", "min": -1.0, "max": 1.0}}
ADC = {"bits": 12, "grid": "symmetric", "range": {"kind": "fixed", "min": -32.0, "max": 32.0}}


def target(*noise: dict[str, Any], **more: Any) -> Target:
    given = {
        "name": "t",
        "weights": {"range": {"kind": "fixed", "min": -1.0, "max": 1.0}},
        "conductance": {"g_max": 10.0},
        "dac": DAC,
        "adc": ADC,
        "noise": noise,
    }
    return Target.model_validate(given | more)


def linear(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(1)
    layer = nn.Linear(rows, columns, bias=False)
    nn.init.uniform_(layer.weight, -1, 1)
    return layer


def on_chip(layer: nn.Module, chosen: Target, seed: int | Chip = 0, **how: Any) -> nn.Module:
    analog = analogize(layer, chosen).eval()
    program(analog, seed, **how)
    return analog


X = torch.linspace(-1, 1, 300 * 16).view(300, 16).flip(0)
STEP = 64 / (2**12 - 2)


def test_gain_and_offset_of_every_column() -> None:
    """2000 columns: deviations within 5 / sqrt(4000) = 8 %, besides the rounding to steps."""
    layer = linear(16, 2000)
    model = {"model": "adc_mismatch", "gain": 0.05, "offset": 20.0}
    x = torch.rand(300, 16) * 2 - 1
    y = on_chip(layer, target(model))(x)
    ideal = on_chip(layer, target())(x)
    one = torch.stack([ideal, torch.ones_like(ideal)], dim=-1).transpose(0, 1)
    fit = torch.linalg.lstsq(one.double(), y.T.unsqueeze(-1).double()).solution.squeeze(-1).detach()
    gains, offsets = fit[:, 0] - 1, fit[:, 1] / STEP
    assert float(gains.std()) == pytest.approx(0.05, rel=0.08)
    assert float(offsets.std()) == pytest.approx(20.0, rel=0.08)
    assert abs(float(gains.mean())) < 5 * 0.05 / math.sqrt(2000)
    assert abs(float(torch.corrcoef(torch.stack([gains, offsets]))[0, 1])) < 5 / math.sqrt(2000)


def test_columns_that_share_an_adc_have_its_error() -> None:
    layer = linear(16, 10)
    layer.weight.data[:] = layer.weight.data[0]
    y = on_chip(layer, target({"model": "adc_mismatch", "offset": 50.0, "columns": 4}))(X)
    first, second, last = y[:, :4], y[:, 4:8], y[:, 8:]
    for block in (first, second, last):
        assert torch.equal(block, block[:, :1].expand_as(block))
    assert not torch.equal(first[:, 0], second[:, 0])
    assert not torch.equal(second[:, 0], last[:, 0])


def test_every_tile_has_converters_of_its_own() -> None:
    """Offsets of two rows of tiles add up: their variance is twice that of one."""
    layer = linear(16, 3000)
    model = {"model": "adc_mismatch", "offset": 30.0}
    zeros = torch.zeros(1, 16)
    stds = []
    for rows in (16, 8):
        array = {"rows": rows, "cols": 3000, "tiling": True}
        stds.append(float(on_chip(layer, target(model, array=array))(zeros).detach().std()))
    assert stds[1] / stds[0] == pytest.approx(math.sqrt(2), rel=5 / math.sqrt(3000))


def test_adc_inl_by_hand() -> None:
    """A parabola of 3 steps through five points, straight lines between them."""
    layer, points = linear(16, 8), (0.0, 2.25, 3.0, 2.25, 0.0)
    fine = target()
    sums = on_chip(layer, fine).get_parameter("weight")
    codes = torch.round(X * 127) / 127
    values = (codes.double() @ sums.double().T) / STEP
    expected = values + torch.tensor(
        np.interp(values.detach().numpy(), np.linspace(-2047, 2047, 5), points)
    )
    y = on_chip(layer, target({"model": "inl", "on": "converter", "deviation": points}))(X)
    # Float32 sums may fall on the other side of half a step.
    assert_close(y.double() / STEP, expected.round(), rtol=0, atol=1.01)
    off = (y.double() / STEP - expected.round()).abs() > 0.5
    assert float(off.detach().double().mean()) < 0.01


def test_dac_inl_acts_on_codes() -> None:
    layer, points = linear(16, 8), (0.0, -4.0, 0.0, 4.0, 0.0)
    wide = {**DAC, "bits": 8}
    y = on_chip(layer, target({"model": "inl", "on": "inputs", "deviation": points}, adc={}))(X)
    codes = torch.round(X * 127).double()
    codes = codes + torch.tensor(np.interp(codes.numpy(), np.linspace(-127, 127, 5), points))
    assert wide["bits"] == 8
    assert_close(y.double(), (codes / 127) @ layer.weight.double().T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ratio", [2.0, 3.0, 10.0])
def test_non_linear_iv(ratio: float) -> None:
    """Half of the largest input carries 1 / ratio of its current."""
    layer = linear(4, 3)
    x = torch.tensor([[1.0, 0, 0, 0], [64 / 127, 0, 0, 0]])
    y = on_chip(layer, target({"model": "nonlinear_iv", "ratio": ratio}, adc={}))(x)
    b = 2 * math.acosh(ratio / 2)
    share = math.sinh(b * 64 / 127) / math.sinh(b) if b else 64 / 127
    assert_close(y[0], layer.weight[:, 0].detach(), rtol=1e-5, atol=1e-6)
    assert_close(y[1], share * layer.weight[:, 0].detach(), rtol=1e-5, atol=1e-6)
    if b:
        assert math.sinh(b) / math.sinh(b / 2) == pytest.approx(ratio)


@pytest.mark.parametrize("shape", ["hard", "soft"])
def test_saturating_integrators(shape: str) -> None:
    layer = linear(16, 8)
    model = {"model": "saturation", "limit": 1.5, "shape": shape}
    y = on_chip(layer, target(model, adc={}))(X)
    sums = (torch.round(X * 127) / 127) @ layer.weight.T
    expected = sums.clamp(-1.5, 1.5) if shape == "hard" else 1.5 * (sums / 1.5).tanh()
    assert_close(y, expected.detach(), rtol=1e-4, atol=1e-4)
    assert float(y.detach().abs().max()) <= 1.5 * (1 + 1e-5)


@pytest.mark.parametrize("model", ["read", "output"])
def test_averaged_reads(model: str) -> None:
    """The deviation falls by sqrt(16) = 4; 300 x 200 sums."""
    layer = linear(16, 200)
    strength = {"additive": 0.05} if model == "read" else {"std": 0.02}
    deviations = []
    for reads in (1, 16):
        analog = on_chip(layer, target({"model": model, "reads": reads, **strength}))
        with noise_mode(analog, "off"):
            clean = analog(X)
        torch.manual_seed(0)
        deviations.append(float((analog(X) - clean).detach().std()))
    assert deviations[0] / deviations[1] == pytest.approx(4.0, rel=0.05)


MISMATCH = {"model": "adc_mismatch", "gain": 0.05, "offset": 5.0}


def test_a_chip_keeps_its_converters_and_another_has_others() -> None:
    layer = linear(16, 8)
    analog = on_chip(layer, target(MISMATCH))
    first = analog(X)
    torch.manual_seed(99)
    assert torch.equal(first, analog(X))
    program(analog, 1)
    assert not torch.equal(first, analog(X))
    program(analog, 0)
    assert torch.equal(first, analog(X))


def test_without_noise_converters_are_ideal() -> None:
    layer = linear(16, 8)
    models = MISMATCH, {"model": "nonlinear_iv", "ratio": 4.0}
    with noise_mode(analog := on_chip(layer, target(*models)), "off"):
        assert torch.equal(analog(X), on_chip(layer, target())(X))


def test_fresh_noise_draws_converters_once_a_pass() -> None:
    analog = analogize(nn.Sequential(linear(16, 8), nn.Linear(8, 4)), target(MISMATCH))
    torch.manual_seed(0)
    first = analog(X)
    assert not torch.equal(first, analog(X))
    torch.manual_seed(0)
    assert torch.equal(first, analog(X))


def test_training_goes_straight_through() -> None:
    """The gradient of the weights is that of clean weights and codes, as with any other noise."""
    layer = linear(16, 8)
    gradients = []
    for models in ([], [MISMATCH, {"model": "inl", "on": "converter", "deviation": [0.0, 1.0]}]):
        analog = analogize(layer, target(*models)).train()
        x = X.clone().requires_grad_()
        analog(x).sum().backward()
        gradients.append((analog.get_parameter("weight").grad, x.grad))
    assert_close(gradients[0], gradients[1])


def test_exported_and_imported_chips_are_bit_equal(tmp_path: Path) -> None:
    layer = linear(16, 8)
    analog = on_chip(layer, target(MISMATCH, array={"rows": 8, "cols": 4, "tiling": True}), seed=7)
    y = analog(X)
    save_chip(read_chip(analog), tmp_path / "chip.npz")
    program(analog, 3)
    program(analog, load_chip(tmp_path / "chip.npz"))
    assert torch.equal(y, analog(X))
    assert read_chip(analog)["weight"].settings["reading"]["draws"].startswith("7/")


def test_a_measured_chip_needs_a_seed_for_its_converters() -> None:
    cells = np.full((16, 8), 5.0)
    analog = analogize(linear(16, 8), target(MISMATCH)).eval()
    program(analog, Chip.measured({"weight": (cells, cells)}, unit="uS"))
    with pytest.raises(ChipError, match="does not say what they are; give the Chip a seed"):
        analog(X)
    program(analog, Chip.measured({"weight": (cells, cells)}, unit="uS", seed=3))
    assert float(analog(X).detach().std()) > 0


def test_a_graph_does_not_hold_converters_of_a_chip(tmp_path: Path) -> None:
    analog = on_chip(linear(16, 8), target(MISMATCH))
    for noise in ("programmed", "runtime", 3):
        with pytest.raises(ExportError, match="'adc_mismatch' is about drivers, columns or"):
            export_onnx(analog, tmp_path / "m.onnx", X, noise=noise)
    export_onnx(analog, tmp_path / "m.onnx", X)


def test_converters_are_not_batched_over_chips() -> None:
    analog = analogize(linear(16, 8), target(MISMATCH)).eval()
    with pytest.raises(ChipError, match=r"converters or drivers.*at_once=1"):
        run_many(analog, X, program_many(analog, [1, 2]))


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (MISMATCH, {"adc": {}}, "counts in the ADC's steps: give adc.bits"),
        ({"model": "inl", "on": "converter", "deviation": [0.0, 1.0]}, {"adc": {}}, "ADC's steps"),
        ({"model": "inl", "on": "inputs", "deviation": [0.0, 1.0]}, {"dac": {}}, "DAC's codes"),
        ({"model": "nonlinear_iv", "ratio": 3.0}, {"dac": {}}, "DAC's codes"),
        ({"model": "nonlinear_iv", "ratio": 1.5}, {}, "greater than or equal to 2"),
        ({"model": "saturation", "limit": 3.0}, {"dac": {}}, "DAC's codes"),
        (
            {"model": "saturation", "limit": 3.0},
            {"weights": {}, "conductance": None},
            "full-scale weights",
        ),
        ({"model": "inl", "on": "converter", "deviation": [0.0]}, {}, "at least 2 items"),
        (
            {"model": "custom", "function": "a:b", "on": "converter"},
            {"adc": {}},
            "a function on converter counts",
        ),
    ],
)
def test_what_a_model_needs(model: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target(model, **changes)


def test_conditions_that_change_nothing_are_refused() -> None:
    analog = analogize(linear(16, 8), target(MISMATCH)).eval()
    with pytest.raises(ChipError, match="whatever the condition 'temperature' is"):
        program(analog, 0, conditions={"temperature": 330.0})
    heated = {
        "model": "temperature",
        "activation": {"kind": "polynomial", "coefficients": [0.1]},
        "reference": 300.0,
        "min": 280.0,
        "max": 360.0,
    }
    analog = analogize(linear(16, 8), target(heated)).eval()
    with pytest.raises(ChipError, match="must be a finite number"):
        program(analog, 0, conditions={"temperature": math.nan})
    with pytest.raises(ChipError, match="holds from 280 to 360 K, and the temperature is 400"):
        program(analog, 0, conditions={"temperature": 400.0})


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(4, 8, 1)],
    ids=["grouped", "transposed", "pointwise"],
)
def test_convolutions_have_a_converter_an_output_channel(layer: nn.Module) -> None:
    model = {"model": "adc_mismatch", "offset": 100.0}
    x = torch.zeros(2, 4, *([5] * (2 if isinstance(layer, nn.Conv2d) else 1)))
    layer.bias = None  # type: ignore[assignment]
    y = on_chip(layer, target(model))(x)
    each = y.movedim(1, 0).flatten(1)
    assert torch.equal(each, each[:, :1].expand_as(each))
    assert len(each[:, 0].unique()) == len(each)
