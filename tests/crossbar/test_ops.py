"""The operator against arithmetic written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, noise_mode, program
from analogize.crossbar.fresh import fresh_weights
from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import CalibrationError
from analogize.model.one_pass import one_pass

Make = Callable[..., Target]


def only_operator(model: nn.Module) -> AnalogOp:
    (op,) = operators(model)
    return op


def grid(low: float, high: float, bits: int) -> tuple[float, float, float]:
    """Step and zero-centred limits of an affine grid, in double precision."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (2**bits - 1)
    zero = round(-low / step)
    return step, -zero, 2**bits - 1 - zero


@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
def test_a_quantized_layer_is_the_code_domain_arithmetic(bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, layer = torch.randn(16, 12), nn.Linear(12, 7)
    converter = {"bits": bits, "range": {"kind": "percentile", "low": 0.0, "high": 100.0}}
    target = Target.model_validate(
        {
            "schema": 1,
            "name": "t",
            "description": "t",
            "technology": "t",
            "weights": {"bits": bits, "range": {"kind": "absmax"}, "grid": "affine"},
            "dac": converter,
            "adc": converter,
        }
    )
    analog = analogize(nn.Sequential(layer), target, [x]).eval()
    s_x, x_low, x_high = grid(x.min().item(), x.max().item(), bits)
    largest = layer.weight.abs().max().item()
    s_w, w_low, w_high = grid(-largest, largest, bits)
    digital = F.linear(x, layer.weight)
    s_y, y_low, y_high = grid(digital.min().item(), digital.max().item(), bits)
    f32 = torch.tensor([s_x, s_w, s_y], dtype=torch.float64).float()
    x_code = (x / f32[0]).round().clamp(x_low, x_high)
    w_code = (layer.weight / f32[1]).round().clamp(w_low, w_high)
    step = (f32[2].double() / (f32[0].double() * f32[1].double())).float()
    acc = (x_code.double() @ w_code.double().t()).float()
    y = (acc / step).round().clamp(y_low, y_high) * f32[2] + layer.bias
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(x), y, rtol=0, atol=0)


def test_gradients_use_clean_weights() -> None:
    """With noise, without converters: exactly the digital layer's gradients at clipped weights."""
    layer = nn.Conv2d(3, 5, 3, padding=1)
    nn.init.normal_(layer.weight)
    analog = analogize(nn.Sequential(layer), "paper_resnet32")
    op = only_operator(analog)
    low, high = op.array.range.tolist()
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    y = analog(x)
    grad = torch.randn_like(y)
    grad_x, grad_w, grad_b = torch.autograd.grad(
        y, (x, analog.get_parameter("0.weight"), analog.get_parameter("0.bias")), grad
    )
    clipped = layer.weight.detach().clamp(low, high).requires_grad_()
    clean = F.conv2d(x, clipped, layer.bias, padding=1)
    assert (y - clean).std() > 0.01 * clean.std()
    expected_x, expected_w, expected_b = torch.autograd.grad(clean, (x, clipped, layer.bias), grad)
    inside = (layer.weight >= low) & (layer.weight <= high)
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(grad_x, expected_x)
    torch.testing.assert_close(grad_w, expected_w * inside)
    torch.testing.assert_close(grad_b, expected_b)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("grid_kind", ["affine", "symmetric"])
def test_quantized_gradients_are_straight_through(
    quantized: Make, granularity: str, grid_kind: str
) -> None:
    layer = nn.Linear(12, 7, bias=False)
    data = torch.randn(64, 12)
    target = quantized(6, eta=0.1, granularity=granularity, grid=grid_kind)
    analog = analogize(nn.Sequential(layer), target, [data])
    op = only_operator(analog)
    x = (2 * torch.randn(32, 12)).requires_grad_()
    with one_pass(analog), torch.no_grad():
        noisy = fresh_weights(op, analog.get_parameter("0.weight"))
        with torch.enable_grad():
            y = analog(x)
    grad = torch.randn_like(y)
    grad_x, grad_w = torch.autograd.grad(y, (x, analog.get_parameter("0.weight")), grad)
    with torch.no_grad():
        x_codes, w_real = op.dac(x), op.array.real(layer.weight)
        x_real = x_codes * op.dac.scale
        y_low, y_high = (op.adc.scale * op.adc.low, op.adc.scale * op.adc.high)
        dac_passes = ((x / op.dac.scale).round() >= op.dac.low) & (
            (x / op.dac.scale).round() <= op.dac.high
        )
        acc = F.linear(x_codes, noisy)
        rounded = (acc / op._stages.step).round()
        adc_passes = (rounded >= op.adc.low) & (rounded <= op.adc.high)
    assert 0.05 < dac_passes.float().mean() < 0.99
    assert adc_passes.float().mean() < 0.999
    assert bool((y >= y_low).all() & (y <= y_high).all())
    passed = grad * adc_passes
    torch.testing.assert_close(grad_x, passed @ w_real * dac_passes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_w, passed.t() @ x_real, rtol=1e-4, atol=1e-4)


def test_a_weight_on_the_end_of_its_range_still_learns(make_target: Make) -> None:
    target = make_target(weights={"range": {"kind": "fixed", "min": -0.1, "max": 0.3}})
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.1, 0.3, 0.31]]))
    analog = analogize(nn.Sequential(layer), target)
    analog(torch.ones(1, 3)).sum().backward()
    assert analog.get_parameter("0.weight").grad.tolist() == [[1.0, 1.0, 0.0]]


def test_fresh_noise_is_new_at_every_pass_and_off_is_off(quantized: Make) -> None:
    x = torch.randn(8, 12)
    analog = analogize(nn.Sequential(nn.Linear(12, 7)), quantized(8, eta=0.1), [x])
    for model in (analog.train(), analog.eval()):
        assert not torch.equal(model(x), model(x))
        with noise_mode(model, "off"):
            assert torch.equal(model(x), model(x))


def test_no_noise_is_the_identity_bit_for_bit(quantized: Make) -> None:
    x, layer = torch.randn(8, 12), nn.Linear(12, 7)
    silent = analogize(nn.Sequential(layer), quantized(8), [x])
    noisy = analogize(nn.Sequential(layer), quantized(8, eta=0.1), [x])
    with noise_mode(noisy, "off"):
        assert torch.equal(silent(x), noisy(x))


def test_every_path_computes_the_same(quantized: Make) -> None:
    """Autograd, no_grad and inference_mode run different code."""
    x, layer = torch.randn(8, 12), nn.Linear(12, 7)
    analog = analogize(nn.Sequential(layer), quantized(5, eta=0.1), [x]).eval()
    program(analog, 0)
    with_graph = analog(x)
    assert with_graph.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(analog(x), with_graph, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(analog(x), with_graph, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_uncalibrated_converters_are_refused(quantized: Make, mode: str) -> None:
    analog = analogize(nn.Sequential(nn.Linear(3, 2)), quantized(8))
    getattr(analog, mode)()
    with pytest.raises(CalibrationError, match=r"region '0'.*DAC and ADC.*calibrat"):
        analog(torch.ones(1, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_keep_their_dtype_and_the_ranges_stay_exact(
    quantized: Make, dtype: torch.dtype
) -> None:
    x, layer = torch.randn(64, 300), nn.Linear(300, 7)
    analog = analogize(nn.Sequential(layer), quantized(8), [x]).eval()
    op = only_operator(analog)
    expected = analog(x)
    before = op.dac.range.clone()
    moved = copy.deepcopy(analog).to(dtype)
    assert torch.equal(only_operator(moved).dac.range, before)
    actual = moved(x.to(dtype))
    assert actual.dtype == dtype
    # Inputs and weights shift by a relative eps of the dtype, a few codes of 255 in the sum.
    tolerance = 0.06 if dtype == torch.bfloat16 else 0.02
    error = (actual.float() - expected).abs().max() / expected.abs().max()
    assert error < tolerance


def test_autocast_multiplies_codes_in_bfloat16(quantized: Make) -> None:
    x, layer = torch.randn(64, 60), nn.Linear(60, 7)
    analog = analogize(nn.Sequential(layer), quantized(8, eta=0.05), [x])
    with torch.autocast("cpu", torch.bfloat16):
        y = analog(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert analog.get_parameter("0.weight").grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16), noise_mode(analog, "off"):
        low = analog(x).float()
    with noise_mode(analog, "off"):
        full = analog(x)
    # Sums of codes keep 8 significant bits in bfloat16: one ADC code either way.
    step = only_operator(analog).adc.scale
    assert (low - full).abs().max() <= 2 * step + 2**-7 * full.abs().max()


def test_nine_bits_leave_bfloat16(quantized: Make) -> None:
    x, layer = torch.randn(64, 60), nn.Linear(60, 7, bias=False)
    analog = analogize(nn.Sequential(layer), quantized(10), [x]).eval()
    with torch.autocast("cpu", torch.bfloat16):
        y = analog(x)
    torch.testing.assert_close(y.float(), analog(x), rtol=2**-8, atol=0)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("eta", [0.0, 0.1])
def test_compiled_without_graph_breaks(quantized: Make, eta: float) -> None:
    x, layer = torch.randn(16, 12), nn.Linear(12, 7)
    analog = analogize(nn.Sequential(layer, nn.ReLU()), quantized(6, eta=eta), [x])
    compiled = torch.compile(copy.deepcopy(analog), fullgraph=True)
    torch.manual_seed(7)
    expected = analog(x)
    expected.sum().backward()
    torch.manual_seed(7)
    actual = compiled(x)
    actual.sum().backward()
    # The compiled sums may be ordered otherwise, so that single outputs move by one ADC code.
    step = only_operator(analog).adc.scale
    assert (actual - expected).abs().max() <= 1.01 * step
    torch.testing.assert_close(
        compiled.get_parameter("0.weight").grad,
        analog.get_parameter("0.weight").grad,
        rtol=0.1,
        atol=0.2,
    )


def test_the_digital_product_itself_where_nothing_is_analog() -> None:
    x, layer = torch.randn(4, 5, dtype=torch.float64), nn.Linear(5, 3).double()
    analog = analogize(nn.Sequential(layer), "ideal")
    weight = analog.get_parameter("0.weight")

    def through(w: Tensor) -> Tensor:
        return torch.func.functional_call(analog, {"0.weight": w}, x).sin()

    assert torch.autograd.gradgradcheck(through, (weight.detach().requires_grad_(),))
