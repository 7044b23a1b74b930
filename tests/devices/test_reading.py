"""A product's own noise: what it is made of, its variance, and nothing where nothing is drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, noise_mode, program
from analogize.crossbar.ops import operators
from analogize.devices.random import Draws
from analogize.devices.reading import CellNoise, disturbance, read_once, squared_norm
from analogize.product import Convolution, Linear, Product
from analogize.targets.conductance import Conductance
from analogize.targets.curve import Polynomial
from analogize.targets.noise import GaussianNoise, OutputNoise, ReadNoise
from analogize.targets.spec import Target

CURVE = Polynomial(coefficients=(0.3, 0.5), reference=25.0)


def cells(pairs: int) -> CellNoise:
    mapping = Conductance(g_min=1.0, g_max=26.0, pairs=pairs)
    return CellNoise(((CURVE, 1.0),), mapping, 75.0)


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_pairs_average(pairs: int) -> None:
    """With n pairs each holds the weight, and their mean deviates by a share of 1 / sqrt(n)."""
    weights = torch.tensor([0.0, 10.0, -50.0])
    # 3 weight units a microsiemens: devices at g_min + |w| / 3, and at g_min.
    held, off = 1.0 + weights.abs() / 3, torch.tensor(1.0)
    sigma = [0.3 + 0.5 * g / 25.0 for g in (held, off)]
    expected = (sigma[0] ** 2 + sigma[1] ** 2) * 3.0**2 / pairs
    assert_close(cells(pairs).variance(weights), expected)


def test_independent_models_add_their_variances() -> None:
    weights = torch.tensor([4.0])
    one = cells(1)
    both = CellNoise(((CURVE, 1.0), (CURVE, 2.0)), one.conductance, one.full)
    assert_close(both.variance(weights), 5 * one.variance(weights))


CONSTANT = Polynomial(coefficients=(0.5,), reference=25.0)


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("pairs", [1, 2])
def test_a_weight_beside_a_reference_takes_both_cells(pairs: int, factor: float) -> None:
    """Offset: the whole range of conductances is the range from -full to full, twice as steep."""
    mapping = Conductance(g_min=1.0, g_max=26.0, pairs=pairs, encoding="offset")
    found = CellNoise(((CONSTANT, factor),), mapping, 75.0).variance(torch.tensor([0.0, -50.0]))
    # 2 * 75 weight units over 25 uS: 6 a microsiemens.
    assert_close(found, torch.full((2,), 2 * (0.5 * factor * 6.0) ** 2 / pairs))


def test_pairs_of_significance_count_by_their_shares() -> None:
    mapping = Conductance(g_min=1.0, g_max=26.0, pairs=2, significance=(1.0, 4.0))
    found = CellNoise(((CONSTANT, 2.0),), mapping, 75.0).variance(torch.tensor([0.0, 10.0]))
    # 3 weight units a microsiemens, two cells a pair, which hold a fifth and four fifths.
    expected = 2 * (0.5 * 2.0 * 3.0) ** 2 * (0.2**2 + 0.8**2)
    assert_close(found, torch.full((2,), expected))
    # Cells of a weight of zero conduct nothing, and are as noisy as such cells are.
    nothing = Conductance(g_min=0.0, g_max=25.0, pairs=2, significance=(1.0, 4.0))
    found = CellNoise(((CURVE, 1.0),), nothing, 75.0).variance(torch.zeros(1))
    assert_close(found, torch.full((1,), 2 * (0.3 * 3.0) ** 2 * (0.2**2 + 0.8**2)))


@pytest.mark.parametrize(
    ("noise", "sigma"),
    [
        (OutputNoise(std=0.1), 0.1 * 3.0),  # of the ADC's range
        (ReadNoise(additive=0.1), 0.1 * 2.0 * 5**0.5),  # of the weights' range, at 5 inputs of 1
        (ReadNoise(additive=0.1, reads=4), 0.05 * 2.0 * 5**0.5),  # the mean of four
        (ReadNoise(multiplicative=0.1), 0.1 * 4.0 * 5**0.5),  # of weights of 4
    ],
)
def test_a_product_deviates_by_its_sigma(noise: ReadNoise | OutputNoise, sigma: float) -> None:
    found = disturbance([noise], 2.0, 3.0, None, 1.0)
    assert found is not None
    torch.manual_seed(0)
    acc = torch.zeros(200, 100)
    found(acc, torch.ones(200, 5), torch.full((100, 5), 4.0), Linear())
    # Of 20,000 draws a deviation is known to 5 / sqrt(40,000), 2.5 %.
    assert float(acc.std()) == pytest.approx(sigma, rel=0.025)


@pytest.mark.parametrize(
    ("noise", "sigma"),
    [(ReadNoise(additive=0.1), 0.1 * 3.0), (ReadNoise(multiplicative=0.1), 0.1 * 10.0)],
)
def test_a_reading_of_weights_deviates_by_its_sigma(noise: ReadNoise, sigma: float) -> None:
    weights = torch.full((20_000,), 10.0)
    found = read_once([noise], weights, 3.0, None, 1.0, Draws("a"), "reading")
    assert float((found - weights).std()) == pytest.approx(sigma, rel=0.025)


@pytest.mark.parametrize(
    "noise",
    [
        [],
        [ReadNoise()],
        [OutputNoise(std=0.0)],
        [ReadNoise(), OutputNoise(std=0.0)],
        [GaussianNoise(eta=0.5)],
    ],
)
def test_nothing_is_drawn_without_a_sigma(noise: list) -> None:
    assert disturbance(noise, 2.0, 3.0, None, 1.0) is None


@pytest.mark.parametrize(
    "noise",
    [
        ReadNoise(additive=0.1),
        ReadNoise(multiplicative=0.1),
        OutputNoise(std=0.1),
        ReadNoise(sigma=CURVE),
    ],
)
def test_one_sigma_is_enough_to_draw(noise: ReadNoise | OutputNoise) -> None:
    mapping = Conductance(g_min=0.0, g_max=25.0)
    found = disturbance([noise], 2.0, 3.0, mapping, 1.0)
    assert found is not None
    torch.manual_seed(0)
    acc = torch.zeros(4, 3)
    found(acc, torch.ones(4, 5), torch.ones(3, 5), Linear())
    assert bool((acc != 0).all())


def test_a_reading_deviates_as_its_devices_do() -> None:
    """Of 20,000 readings a deviation is known to 5 / sqrt(40,000), 2.5 %."""
    weights, one = torch.full((20_000,), 10.0), cells(1)
    found = read_once(
        [ReadNoise(sigma=CURVE)], weights, 2.0, one.conductance, one.full, Draws("a"), "reading"
    )
    expected = float(one.variance(weights[:1]).sqrt())
    assert float((found - weights).std()) == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batched", [False, True])
def test_the_norm_behind_every_output_is_that_of_its_inputs(
    transposed: bool, groups: int, batched: bool
) -> None:
    """With every weight 1 a product of squares is the sum of the squares that an output sees."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(4, 6, (3, 2), stride=2, groups=groups, bias=False)
    model = analogize(layer, "ideal", [torch.randn(1, 4, 7, 8)])
    (op,) = operators(model)
    x = torch.randn(3, 4, 7, 8) if batched else torch.randn(4, 7, 8)
    norm = squared_norm(x, layer.weight, op.array.product)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        assert_close(norm.expand_as(layer(x)), layer(x.square()))


def test_read_noise_without_conductances_has_no_cells() -> None:
    assert disturbance([ReadNoise(sigma=CURVE)], 2.0, 3.0, None, 1.0) is None


def test_noises_of_one_size_do_not_cancel() -> None:
    noise = [ReadNoise(additive=0.1), OutputNoise(std=0.1)]
    found = disturbance(noise, 2.0, 3.0, None, 1.0)
    assert found is not None
    assert found.output == pytest.approx(0.3)
    four = disturbance([OutputNoise(std=0.1, reads=4)], 2.0, 3.0, None, 1.0)
    assert four is not None
    assert four.output == pytest.approx(0.3 / 2), "the mean of four readings"
    both = disturbance([ReadNoise(additive=0.1, multiplicative=0.1)], 2.0, 3.0, None, 1.0)
    assert both is not None
    assert (both.additive, both.multiplicative) == (pytest.approx(0.2), 0.1)


def target(*noise: dict[str, Any], **more: Any) -> Target:
    weights, mapping = {"range": {"kind": "absmax"}}, {"g_max": 25.0}
    base = {"name": "test", "weights": weights, "conductance": mapping, "noise": noise}
    return Target.model_validate(base | more)


CONV = Convolution("conv2d", (2, 1), (1, 0), (1, 2), groups=2)
TRANSPOSED = Convolution("conv_transpose1d", (2,), (1,), (1,), True, (1,), groups=3)


@pytest.mark.parametrize(
    ("product", "x", "w"),
    [
        (Linear(), (5, 3, 7), (4, 7)),
        (Linear(), (5, 7), (7,)),
        (CONV, (2, 4, 6, 7), (6, 2, 3, 2)),
        (CONV, (4, 6, 7), (6, 2, 3, 2)),
        (TRANSPOSED, (2, 6, 5), (6, 2, 3)),
    ],
)
def test_squared_norm(product: Product, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """The variance of a product with unit-variance weights, from one weight at a time."""
    inputs, weights = torch.randn(x), torch.zeros(w)
    expected = torch.zeros_like(product.forward(inputs, weights))
    for index in range(weights.numel()):
        one = torch.zeros(w)
        one.view(-1)[index] = 1.0
        expected += product.forward(inputs, one).square()

    found = squared_norm(inputs, weights, product)

    assert_close(found.expand_as(expected), expected)


@pytest.mark.parametrize(
    ("noise", "variance"),
    [
        ({"additive": 0.02}, lambda x, w, width: (0.02 * width) ** 2 * x.square().sum()),
        ({"multiplicative": 0.1}, lambda x, w, width: 0.01 * (x.square() @ w.square().T)),
        (
            # sigma(G) = 0.1 G, of a device at 25 |w| / w_full and one at 0
            {"sigma": {"kind": "polynomial", "coefficients": [0.0, 0.1]}},
            lambda x, w, width: 0.01 * (x.square() @ w.square().T),
        ),
        (
            {"sigma": {"kind": "polynomial", "coefficients": [0.5]}},
            lambda x, w, width: 2 * (0.5 / 25 * width / 2) ** 2 * x.square().sum(),
        ),
    ],
)
def test_read_noise_is_drawn_for_every_product_of_a_programmed_chip(
    noise: dict[str, Any], variance: Any
) -> None:
    analog = analogize(nn.Linear(50, 3, bias=False), target({"model": "read", **noise})).eval()
    program(analog, 0)
    weight, x = analog.get_parameter("weight").detach(), torch.randn(50)

    y = analog(x.expand(20_000, 50)).detach()

    expected = variance(x, weight, 2 * weight.abs().max()).expand(3).sqrt()
    # Five standard errors of 20 000 draws: 5 / sqrt(4e4) = 2.5 %.
    assert_close(y.std(0), expected, rtol=0.025, atol=0)
    # The mean is the noiseless product within five standard errors, 5 / sqrt(2e4) = 0.036 of it.
    assert bool(((y.mean(0) - weight @ x).abs() < 0.036 * expected).all())
    with noise_mode(analog, "off"):
        assert_close(analog(x), weight @ x)


def test_output_noise_refers_to_the_adc() -> None:
    adc = {"bits": 12, "range": {"kind": "fixed", "min": -4.0, "max": 4.0}}
    analog = analogize(
        nn.Linear(50, 3, bias=False), target({"model": "output", "std": 0.01}, adc=adc)
    ).eval()
    y = analog(torch.zeros(20_000, 50)).detach()

    assert float(y.std()) == pytest.approx(0.01 * 8, rel=0.015)  # 5 / sqrt(1.2e5)
    assert float(y.mean()) == pytest.approx(0, abs=5 * 0.08 / math.sqrt(6e4))
