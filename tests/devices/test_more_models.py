"""Write-verify, correlated variation and temperature: moments, by hand, and where they hold."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.cells import Reading, read_cells
from analogize.devices.correlated import correlated
from analogize.devices.layout import Layout
from analogize.devices.placing import from_tiles, on_tiles
from analogize.devices.random import Draws
from analogize.devices.temperature import BOLTZMANN
from analogize.errors import ChipError
from analogize.product import Convolution, Linear, Product
from analogize.targets.conductance import Conductance
from analogize.targets.curve import Polynomial
from analogize.targets.noise import (
    NoiseModel,
    TemperatureNoise,
    VariationNoise,
    WriteVerifyNoise,
)
from analogize.targets.spec import Target

MAPPING = Conductance(g_max=100.0)
COUNT = 200_000


def constant(value: float) -> Polynomial:
    return Polynomial(coefficients=(value,))


def read(
    noise: NoiseModel,
    weights: torch.Tensor,
    layout: Layout | None = None,
    reading: Reading | None = None,
) -> torch.Tensor:
    reading = reading or Reading(Draws("models"))
    return read_cells(weights, 1.0, MAPPING, (noise,), reading, layout=layout)[:, 0]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_write_verify_accepts_what_is_in_the_window(attempts: int) -> None:
    """Of N(0, 2 uS) p = erf(1 / sqrt 2) lies within 2 uS: (1 - p)^n stay outside after n."""
    model = WriteVerifyNoise(sigma=constant(2.0), window=2.0, iterations=attempts)
    miss = read(model, torch.full((COUNT,), 0.5).double())[0] - 50.0
    p = math.erf(1 / math.sqrt(2))
    outside = (1 - p) ** attempts
    tolerance = 5 * math.sqrt(outside / COUNT)
    assert float((miss.abs() > 2.0).double().mean()) == pytest.approx(outside, abs=tolerance)
    # Inside, a normal distribution cut off at one deviation.
    inside = miss[miss.abs() <= 2.0]
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    expected = 4.0 * (1 - 2 * density / p)
    assert float(inside.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / COUNT))
    assert float(inside.mean()) == pytest.approx(0, abs=5 * math.sqrt(expected / COUNT))


def test_write_verify_is_scaled_and_biased_like_programming() -> None:
    model = WriteVerifyNoise(
        sigma=constant(1.0), bias=constant(0.5), window=100.0, iterations=3, scale=2.0
    )
    miss = read(model, torch.full((COUNT,), 0.5).double())[0] - 50.0
    assert float(miss.mean()) == pytest.approx(1.0, abs=5 * 2.0 / math.sqrt(COUNT))
    assert float(miss.std()) == pytest.approx(2.0, rel=5 / math.sqrt(2 * COUNT))


@pytest.mark.parametrize("length", [0.5, 2.0, 30.0])
def test_correlations_over_a_tile(length: float) -> None:
    """Over 4000 tiles; a correlation is found to within 5 / sqrt(4000)."""
    generator = torch.Generator().manual_seed(0)
    field = correlated(torch.randn(4000, 12, 9, generator=generator).double(), length)
    one = field[:, 4, 5]
    for row, column in [(4, 5), (4, 6), (6, 5), (8, 2), (11, 8)]:
        expected = math.exp(-((row - 4) ** 2 + (column - 5) ** 2) / (2 * length**2))
        found = float((one * field[:, row, column]).mean())
        assert found == pytest.approx(expected, abs=5 * math.sqrt(2 / 4000))


CONV = Convolution("conv2d", (1, 1), (0, 0), (1, 1), groups=1)
DEPTHWISE = Convolution("conv2d", (1, 1), (0, 0), (1, 1), groups=6)
TRANSPOSED = Convolution("conv_transpose2d", (1, 1), (0, 0), (1, 1), True, (0, 0), 2)
SHAPES = [
    (Linear(), (7, 10)),
    (Linear(), (3, 2)),
    (CONV, (5, 3, 2, 2)),
    (DEPTHWISE, (6, 1, 2, 2)),
    (TRANSPOSED, (4, 3, 2, 2)),
]


@pytest.mark.parametrize(("product", "shape"), SHAPES)
@pytest.mark.parametrize("size", [(4, 3), (9, 5), (30, 30)])
def test_cells_come_back_from_their_tiles(
    product: Product, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    layout = Layout(product, torch.Size(shape), *size)
    cells = torch.rand(2, *shape) + 0.5
    tiles = on_tiles(layout, cells)
    assert torch.equal(from_tiles(layout, tiles), cells)
    assert float(tiles.sum()) == pytest.approx(float(cells.sum()), rel=1e-5)
    assert tiles.shape[2] <= size[0]
    assert tiles.shape[3] <= size[1]


def test_neighbours_of_an_array_vary_alike() -> None:
    """A column of 64 cells on 16-row tiles; the average over columns and both devices."""
    layout = Layout(Linear(), torch.Size([2000, 64]), 16, 2000)
    model = VariationNoise(source="device", std=0.1, length=1.5)
    factor = read(model, torch.ones(2000, 64).double(), layout)[0] / 100.0 - 1
    assert float(factor.std()) == pytest.approx(0.1, rel=0.05)
    beside = (factor[:, :-1] * factor[:, 1:]).mean(0) / 0.01
    within, across = beside[[3, 20, 40]], beside[[15, 31, 47]]
    alone = VariationNoise(source="device", std=0.1)
    # Neighbouring columns are correlated, so that 2000 of them count as fewer.
    assert_close(within, torch.full_like(within, math.exp(-1 / 4.5)), rtol=0, atol=0.25)
    assert float(across.abs().max()) < 0.25
    factor = read(alone, torch.ones(2000, 64).double(), layout)[0] / 100.0 - 1
    assert float((factor[:, :-1] * factor[:, 1:]).mean()) / 0.01 == pytest.approx(0, abs=0.02)


HEAT = TemperatureNoise(activation=constant(0.1), reference=300.0, min=250.0, max=400.0)


def test_conductances_follow_arrhenius() -> None:
    weights = torch.tensor([0.2, -0.7]).double()
    hot = read(HEAT, weights, reading=Reading(conditions={"temperature": 350.0}))
    factor = math.exp(-0.1 / BOLTZMANN * (1 / 350 - 1 / 300))
    assert factor == pytest.approx(1.737, abs=1e-3)
    assert_close(hot[0] - hot[1], 100 * weights * factor)
    assert_close(read(HEAT, weights), read(HEAT, weights, reading=Reading(conditions={"x": 1.0})))


def test_a_temperature_beyond_the_measured_ones_is_refused() -> None:
    with pytest.raises(ChipError, match="holds from 250 to 400 K, and the temperature is 401"):
        read(HEAT, torch.ones(3), reading=Reading(conditions={"temperature": 401.0}))


@pytest.mark.parametrize(
    "model",
    [
        WriteVerifyNoise(sigma=constant(1.0), window=1.0, iterations=4),
        VariationNoise(source="device", std=0.1, length=3.0),
        HEAT,
    ],
    ids=lambda model: str(model.model),
)
def test_on_fresh_noise_and_on_chips(model: NoiseModel) -> None:
    target = Target(
        name="t",
        weights={"range": {"kind": "absmax"}},
        conductance=MAPPING,
        noise=(model,),
        array={"rows": 8, "cols": 4},
    )
    torch.manual_seed(0)
    analog = analogize(nn.Sequential(nn.Linear(10, 6), nn.Linear(6, 4)), target)
    x = torch.randn(3, 10)
    random = not isinstance(model, TemperatureNoise)
    assert torch.equal(analog(x), analog(x)) != random
    analog.eval()
    program(analog, 0)
    chips = [op.array.chip for op in operators(analog)]
    program(analog, 0, cycle=1)
    same = [torch.equal(a, op.array.chip) for a, op in zip(chips, operators(analog), strict=True)]
    assert same == [not isinstance(model, WriteVerifyNoise)] * 2


def test_variation_over_cells_needs_tiles() -> None:
    with pytest.raises(ValueError, match="neighbours are those on a tile"):
        Target(
            name="t",
            weights={"range": {"kind": "absmax"}},
            conductance=MAPPING,
            noise=(VariationNoise(source="device", std=0.1, length=3.0),),
        )
