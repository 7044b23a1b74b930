"""Encodings beside the differential pair: moments, reference columns, given chips."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from analogize import Chip, analogize, program, read_chip
from analogize.crossbar.ops import operators
from analogize.errors import ChipError
from analogize.targets.spec import Target

SIGMA = 0.5
PROGRAMMING = {"model": "programming", "sigma": {"kind": "polynomial", "coefficients": [SIGMA]}}
OFFSET = {"g_min": 5.0, "g_max": 25.0, "encoding": "offset"}


def target(conductance: dict[str, Any], *noise: dict[str, Any], **more: Any) -> Target:
    base = {
        "name": "encoded",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": conductance,
        "noise": noise or (PROGRAMMING,),
    }
    return Target.model_validate(base | more)


def on_chip(layer: nn.Module, given: Target, seed: int = 0) -> nn.Module:
    analog = analogize(layer, given).eval()
    program(analog, seed)
    return analog


def deviation(analog: nn.Module) -> Tensor:
    """Of the chip's weights from the clean ones: shape (columns, rows)."""
    (op,) = operators(analog)
    assert op.array.chip is not None
    return (op.array.chip - op.stored.value()).detach()


def linear(rows: int, columns: int) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(rows, columns, bias=False)
    with torch.no_grad():
        layer.weight[0, 0] = layer.weight.abs().max() * 1.001
    return nn.Sequential(layer)


def test_the_reference_is_common_to_the_columns_of_a_tile() -> None:
    rows, columns, wide = 400, 200, 50
    layer = linear(rows, columns)
    size = {"rows": 256, "cols": wide, "tiling": True}
    miss = deviation(on_chip(layer, target(OFFSET, array=size)))
    full = float(layer[0].weight.detach().abs().max())  # type: ignore[index]

    # w = (G - Gref) 2 full / (g_max - g_min): both devices miss alike, by SIGMA.
    unit = 2 * full / 20
    assert float(miss.std()) == pytest.approx(2**0.5 * SIGMA * unit, rel=0.02)
    # What the columns of a tile have in common is their reference, of a variance of SIGMA^2 and
    # SIGMA^2 / 50 of the mean of 50 cells.
    common = miss.view(columns // wide, wide, rows).mean(1)
    assert float(common.std()) == pytest.approx(SIGMA * unit * (1 + 1 / wide) ** 0.5, rel=0.06)
    # Tiles side by side have references of their own: 400 rows, so 3 standard errors of 0.05.
    assert abs(float(torch.corrcoef(common)[0, 1])) < 0.15

    data = read_chip(on_chip(layer, target(OFFSET, array=size)))["0"]
    for blocks in data.tiles():
        minus = data.on_tile(blocks)[1]
        assert (minus == minus[:, :1]).all()
        assert len(np.unique(minus[:, 0])) == len(minus)


def test_without_a_size_there_is_one_reference_for_all_columns() -> None:
    data = read_chip(on_chip(linear(6, 5), target(OFFSET)))["0"]
    assert (data.minus[0] == data.minus[0][:, :1]).all()
    convolution = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2))
    data = read_chip(on_chip(convolution, target(OFFSET)))["0"]
    assert (data.minus == data.minus[:, :, :1]).all()
    assert not (data.minus[0] == data.minus[1]).any()


def test_significance_weighs_the_noise_of_pairs() -> None:
    layer = linear(400, 200)
    pairs = {"g_max": 25.0, "pairs": 2, "significance": [1.0, 4.0]}
    miss = deviation(on_chip(layer, target(pairs)))
    full = float(layer[0].weight.detach().abs().max())  # type: ignore[index]

    # Four devices of factors 1, 1, 4, 4 over 5; half of those at g_min = 0 stay at 0 when they
    # would go below, which a target at g_min = 20 does not see.
    away = {"g_min": 20.0, "g_max": 45.0, "pairs": 2, "significance": [1.0, 4.0]}
    sound = deviation(on_chip(layer, target(away)))
    unit = full / 25 / 5
    assert float(sound.std()) == pytest.approx(SIGMA * unit * 34**0.5, rel=0.02)
    assert float(miss.std()) < float(sound.std())


@pytest.mark.parametrize(
    "conductance", [OFFSET, {"g_max": 25.0, "pairs": 2, "significance": [1.0, 4.0]}]
)
def test_read_noise_is_that_of_the_cells(conductance: dict[str, Any]) -> None:
    """Against cells that are drawn anew for every product, of a spread that grows with G."""
    rows, columns, products = 20, 3, 4000
    layer = linear(rows, columns)
    curve = {"kind": "polynomial", "coefficients": [0.1, 0.02]}
    analog = on_chip(layer, target(conductance, {"model": "read", "sigma": curve}))
    x = torch.rand(rows)
    found = torch.stack([analog(x).detach() for _ in range(products)])

    cells = read_chip(on_chip(layer, target(conductance, PROGRAMMING | {"scale": 0.0})))["0"]
    assert cells.conductances is not None
    held = cells.conductances[0, :, :, 0] * 1e6
    full = float(layer[0].weight.detach().abs().max())  # type: ignore[index]
    if "significance" in conductance:
        shares, unit = np.array([1.0, 4.0]) / 5, full / 25
    else:
        shares, unit = np.ones(1), 2 * full / 20
    variance = ((0.1 + 0.02 * held) ** 2 * shares[:, None, None] ** 2).sum((0, 1)) * unit**2
    expected = torch.from_numpy((variance * (x.numpy() ** 2)[:, None]).sum(0)).sqrt()
    # A standard deviation of 4000 draws is known to 1.1 %.
    assert_close(found.std(0).double(), expected, rtol=0.05, atol=0)


def test_measured_devices_against_a_measured_reference_column() -> None:
    analog = on_chip(linear(6, 4), target(OFFSET))
    rng = np.random.default_rng(0)
    plus, reference = rng.uniform(5, 25, (6, 4)), rng.uniform(14, 16, (6, 1))
    program(analog, Chip.measured({"0": (plus, reference)}, unit="uS"))
    (op,) = operators(analog)
    full = float(op.stored.value().detach().abs().max())
    x = torch.randn(3, 6)
    expected = x.double().numpy() @ (plus - reference) * 2 * full / 20
    assert analog(x).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    with pytest.raises(ChipError, match="a reference column may have one"):
        Chip.measured({"0": (plus, np.ones((6, 2)))}, unit="uS")


def test_wires_of_a_reference_column_are_refused() -> None:
    wires = {"model": "ir_drop", "row_segment": 1.0}
    with pytest.raises(ValueError, match="reference column are not modelled"):
        target(OFFSET, wires, array={"rows": 8, "cols": 8, "tiling": True})


def test_the_encoding_is_told_and_fresh_noise_knows_it() -> None:
    from analogize.targets.words import settings

    told = dict(settings(target(OFFSET)))["conductance"]
    assert "a reference column a tile, one device a weight" in told
    analog = analogize(linear(300, 100), target(OFFSET)).train()
    eye = torch.eye(300)
    miss = (analog(eye) - linear(300, 100)(eye)).detach()
    assert float(miss.mean(1).std() / miss.std()) == pytest.approx(0.5**0.5, rel=0.1)
