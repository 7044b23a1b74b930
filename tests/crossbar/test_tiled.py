"""Tiled operators: equal to the whole without an ADC, and to arithmetic by hand with one."""

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.testing import assert_close

from analogize import analogize, noise_mode, program, summary
from analogize.crossbar.ops import AnalogOp, operators
from analogize.targets.spec import Target

FULL = {"bits": 16, "range": {"kind": "full"}}


def target(rows: int = 16, adc: Any = None, dac: Any = 8, bits: Any = 8, **array: Any) -> Target:
    return Target.model_validate(
        {
            "name": "tiled",
            "weights": {"range": {"kind": "absmax"}, "bits": bits, "grid": "symmetric"},
            "dac": {"bits": dac},
            "adc": adc or {},
            "array": {"rows": rows, "cols": 8, "tiling": True} | array,
        }
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = torch.relu(self.up(torch.relu(self.depthwise(x))))
        return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def untiled(given: Target) -> Target:
    assert given.array is not None
    plain = given.array.model_copy(update={"tiling": False, "cell_bits": None, "input_bits": None})
    return given.model_copy(update={"array": plain})


def test_equal_to_the_whole_without_adc_bits(net: nn.Module, x: Tensor) -> None:
    given = target(rows=7)
    tiled = analogize(net, given, [x], example_inputs=x)
    whole = analogize(net, untiled(given), [x], example_inputs=x)
    for model in (tiled, whole):
        program(model, 0)

    assert tiled(x).equal(whole(x)), "without an ADC nothing is cut, so nothing costs"
    assert not any(op.tiles for op in operators(tiled))


@pytest.mark.parametrize(
    "digits", [{}, {"input_bits": 1}, {"cell_bits": 2}, {"input_bits": 3, "cell_bits": 2}]
)
def test_an_adc_that_loses_nothing_gives_the_whole(
    net: nn.Module, x: Tensor, digits: dict[str, int]
) -> None:
    """rows x 127 x 255 needs 20 bits; 4-bit weights and inputs fit the 16 that an ADC may have."""
    given = target(rows=16, adc=FULL, dac=4, bits=4, **digits)
    tiled = analogize(net, given, [x], example_inputs=x)
    whole = analogize(
        net, given.model_copy(update={"adc": untiled(target()).adc, "array": None}), [x]
    )

    # All partial sums are whole numbers below 2^24, so only the last scaling rounds.
    assert_close(tiled(x), whole(x), rtol=1e-5, atol=1e-5)
    assert all(op.tiles for op in operators(tiled) if op.region.name in ("conv", "fc"))


def test_by_hand(x: Tensor) -> None:
    layer = nn.Linear(10, 3, bias=False)
    rows = torch.randn(200, 10)
    model = analogize(layer, target(rows=4, adc={"bits": 4}), [rows])
    (op,) = operators(model)
    scale_x, scale_w, scale_y = op.dac.scale, op.array.scale, op.adc.scale
    assert scale_x is not None
    assert scale_w is not None
    assert scale_y is not None
    x_codes = (rows / scale_x).round().clamp(op.dac.low, op.dac.high)
    w_codes = op.array.clean(layer.weight.detach())

    expected = torch.zeros(200, 3)
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
        acc = x_codes[:, part] @ w_codes[:, part].T
        step = (scale_y.double() / (scale_x.double() * scale_w.double())).float()
        expected += (acc / step).round().clamp(op.adc.low, op.adc.high) * scale_y

    assert_close(model(rows), expected)


def test_the_adc_is_calibrated_on_partial_sums(x: Tensor) -> None:
    layer, rows = nn.Linear(64, 8, bias=False), torch.rand(500, 64)
    ranges = []
    for given in (target(rows=8, adc={"bits": 8}), untiled(target(rows=8, adc={"bits": 8}))):
        (op,) = operators(analogize(layer, given, [rows]))
        ranges.append(float(op.adc.range[1] - op.adc.range[0]))
    assert ranges[0] < 0.8 * ranges[1]
    parts = torch.stack(
        [rows[:, k : k + 8] @ layer.weight[:, k : k + 8].T for k in range(0, 64, 8)]
    )
    percentiles = {"bits": 8, "range": {"kind": "percentile"}}
    (op,) = operators(analogize(layer, target(rows=8, adc=percentiles), [rows]))
    assert_close(float(op.adc.range[1]), float(parts.detach().quantile(0.999)), rtol=0.01, atol=0)


@pytest.mark.parametrize("digits", [{}, {"input_bits": 1, "cell_bits": 2}])
def test_gradients_are_those_of_the_clean_whole(digits: dict[str, int]) -> None:
    adc = FULL if digits else {"bits": 12, "range": {"kind": "fixed", "min": -9.0, "max": 9.0}}
    layer, rows = nn.Linear(20, 3, bias=False), torch.randn(6, 20)
    given = target(rows=8, adc=adc, dac=4, bits=4, **digits)
    gradients = []
    for one in (given, given.model_copy(update={"adc": target().adc, "array": None})):
        model = analogize(layer, one, [rows]).train()
        inputs = rows.clone().requires_grad_()
        (model(inputs) * torch.arange(3.0)).sum().backward()
        gradients.append((inputs.grad, model.get_parameter("weight").grad))

    for mine, expected in zip(*gradients, strict=True):
        assert mine is not None
        assert_close(mine, expected)


def test_a_saturated_tile_passes_no_gradient() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, 0.5, 0.5]]))
    adc = {"bits": 8, "range": {"kind": "fixed", "min": -1.5, "max": 1.5}}
    dac = {"bits": 8, "range": {"kind": "fixed", "min": -2.0, "max": 2.0}}
    given = target(rows=2, adc=adc).model_copy(update={"dac": Target(name="d", dac=dac).dac})
    model = analogize(layer, given).train()
    x = torch.ones(1, 4, requires_grad=True)

    model(x).sum().backward()

    # The first tile sums 2, beyond 1.5; the second 1.
    assert x.grad is not None
    assert_close(x.grad, torch.tensor([[0.0, 0.0, 0.5, 0.5]]), atol=5e-3, rtol=0)


def test_digits_are_programmed_one_by_one() -> None:
    noise = {"model": "programming", "sigma": {"kind": "polynomial", "coefficients": [0.5]}}
    given = target(rows=8, adc=FULL, dac=4, bits=8, cell_bits=2)
    given = Target.model_validate(
        given.model_dump(by_alias=True) | {"noise": [noise], "conductance": {"g_max": 25.0}}
    )
    layer, rows = nn.Linear(20, 3, bias=False), torch.rand(6, 20)
    model = analogize(layer, given, [rows]).eval()
    program(model, 0)
    (op,) = operators(model)
    chip = op.array.chip
    assert chip is not None

    assert chip.shape == (4, 3, 20), "127 has four digits of two bits"
    deviations = chip - op.array.digits(op.array.clean(layer.weight.detach()))
    correlation = torch.corrcoef(deviations.flatten(1))
    assert float((correlation - torch.eye(4)).abs().max()) < 0.5
    first = model(rows)
    program(model, 0)
    assert model(rows).equal(first)
    with noise_mode(model, "off"):
        assert not model(rows).equal(first)


def test_a_transposed_convolution_with_an_output_size() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(9, 4, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=[12])

    x = torch.randn(2, 9, 5)
    model = analogize(Up(), target(rows=8, adc=FULL, dac=4, bits=4), [x])
    assert model(x).shape == (2, 4, 12)


def test_tiles_in_the_summary(net: nn.Module, x: Tensor) -> None:
    model = analogize(net, target(rows=16, adc={"bits": 8}), [x])
    tiles = {row.region.name: row.tiles for row in summary(model).rows}
    # 27 x 8 in 16 x 8; 9 x 1, one a tile for want of rows; 4 groups of 4 x 8 -> 2; 144 x 5
    assert tiles == {"conv": 2, "depthwise": 8, "up": 2, "fc": 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiling": False, "cell_bits": 2}, "so set tiling: true"),
        ({"cell_bits": 2, "adc": {"bits": 8}}, "give adc.range {kind: full}"),
        ({"input_bits": 2, "dac": None, "adc": {}}, "give dac.bits and weights.bits"),
        ({"dac": None}, "it counts codes"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        target(**({"adc": FULL} | change))


def test_operators_know_their_tiles(net: nn.Module, x: Tensor) -> None:
    model = analogize(net, target(rows=16, adc={"bits": 8}), [x])

    def cut(op: AnalogOp) -> int:
        return 1 if op.tiles is None else len(op.tiles.pieces)

    assert [cut(op) for op in operators(model)] == [2, 1, 1, 9]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_compiled_in_training_without_graph_breaks() -> None:
    torch.manual_seed(3)
    x, layer = torch.randn(16, 20), nn.Linear(20, 7)
    analog = analogize(nn.Sequential(layer, nn.ReLU()), target(rows=6, adc={"bits": 8}), [x])
    (op,) = operators(analog)
    assert op.tiles is not None
    compiled = torch.compile(copy.deepcopy(analog), fullgraph=True)
    expected, actual = analog(x), compiled(x)
    expected.sum().backward()
    actual.sum().backward()
    # Sums in another order may round to a neighbouring code in each of the four tiles.
    assert (actual - expected).abs().max() <= 4.01 * op.adc.scale
    ours, theirs = compiled.get_parameter("0.weight").grad, analog.get_parameter("0.weight").grad
    assert theirs.abs().max() > 0
    assert_close(ours, theirs, rtol=0.1, atol=0.2)
