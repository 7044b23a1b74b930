"""Chips out and in again are the same chips, bit for bit, by every way there is."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analogize import Chip, analogize, load_chip, program, read_chip, save_chip
from analogize.crossbar.ops import operators
from analogize.targets.spec import Target

PROGRAMMING = {
    "model": "programming",
    "sigma": {"kind": "polynomial", "coefficients": [0.5, 0.02]},
}
GAUSSIAN = {"model": "gaussian", "eta": 0.05}
STUCK = {"model": "stuck", "at_min": 0.1, "at_max": 0.1}
DRIFT = {
    "model": "drift",
    "t0": 20.0,
    "nu_mean": {"kind": "polynomial", "coefficients": [0.06]},
    "nu_std": {"kind": "polynomial", "coefficients": [0.01]},
}
HEAT = {
    "model": "temperature",
    "activation": {"kind": "polynomial", "coefficients": [0.1]},
    "reference": 300.0,
    "min": 250.0,
    "max": 400.0,
}
CONVERTERS = {"model": "adc_mismatch", "gain": 0.05, "offset": 1.0}
FORMS = [".npz", "", *([".h5"] if find_spec("h5py") else [])]


def weights(model: nn.Module) -> list[Tensor]:
    found = [op.array.chip for op in operators(model)]
    assert all(chip is not None for chip in found)
    return [chip for chip in found if chip is not None]


def through_file(chip: Chip, form: str, folder: Path) -> Chip:
    path = folder / f"chip{len(list(folder.iterdir()))}{form}"
    save_chip(chip, path)
    return load_chip(path)


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    groups = draw(st.integers(1, 4))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    kernel = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["linear", "conv", "transposed"]))
    if kind == "linear":
        return nn.Linear(inputs * kernel, outputs), torch.randn(3, inputs * kernel)
    make = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
    return make(inputs, outputs, kernel, groups=groups), torch.randn(2, inputs, 5, 5)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Devices with every encoding, tiles of any size, noise on devices and weights."""
    codes = draw(st.booleans())
    noise = draw(st.lists(st.sampled_from([GAUSSIAN]), max_size=1))
    given: dict[str, Any] = {"name": "random", "weights": {"range": {"kind": "absmax"}}}
    sliced = codes and draw(st.booleans())
    if codes:
        dac = {"bits": 8, "range": {"kind": "fixed", "min": -4.0, "max": 4.0}}
        given["weights"] |= {"bits": 8, "grid": "symmetric"}
        given |= {"dac": dac, "adc": {"bits": 16, "range": {"kind": "full"}}}
    elif draw(st.booleans()):
        given["weights"] |= {"granularity": "channel"}
    if draw(st.booleans()):
        scale = "tensor" if sliced else draw(st.sampled_from(["tensor", "column"]))
        pairs = draw(st.integers(1, 2))
        encoding = draw(st.sampled_from(["pair", "offset"]))
        given["conductance"] = {
            "g_min": draw(st.sampled_from([0.0, 5.0])),
            "g_max": 25.0,
            "pairs": pairs,
            "scale": scale,
            "encoding": encoding,
        }
        if encoding == "pair" and draw(st.booleans()):
            given["conductance"]["significance"] = [1.0, 3.0][:pairs]
        noise = [PROGRAMMING, STUCK, DRIFT, HEAT, *noise]
    if codes and draw(st.booleans()):
        noise = [*noise, CONVERTERS]
    if draw(st.booleans()) or sliced:
        size = {"rows": draw(st.integers(1, 40)), "cols": draw(st.integers(1, 40)), "tiling": True}
        given["array"] = size | ({"cell_bits": 2} if sliced else {})
    return Target.model_validate(given | {"noise": noise})


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(layer=layers(), target=targets(), seed=st.integers(0, 1000), form=st.sampled_from(FORMS))
def test_out_and_in_is_the_same_chip(
    layer: tuple[nn.Module, Tensor],
    target: Target,
    seed: int,
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    module, x = layer
    first, second = (analogize(module, target, [x]).eval() for _ in range(2))
    later = target.conductance is not None and seed % 2 == 1
    how: dict[str, Any] = {"drift_time": "1 h", "compensation": "column"} if later else {}
    if target.conductance is not None and seed % 3 == 0:
        how["conditions"] = {"temperature": 350.0}
    program(first, seed, **how)
    expected = first(x)

    chip = through_file(read_chip(first), form, tmp_path_factory.mktemp("chips"))
    program(second, chip)

    assert all(a.equal(b) for a, b in zip(weights(first), weights(second), strict=True))
    assert second(x).equal(expected)
    again = read_chip(second)
    for name in chip:
        for key in ("conductances", "deviation", "correction"):
            one, two = getattr(chip[name], key), getattr(again[name], key)
            assert (one is None) == (two is None)
            assert one is None or np.array_equal(one, two)


@settings(deadline=None, max_examples=60)
@given(layer=layers(), rows=st.integers(1, 40), cols=st.integers(1, 40))
def test_tiles_hold_every_cell_once_and_stay_within_their_size(
    layer: tuple[nn.Module, Tensor], rows: int, cols: int
) -> None:
    target = {
        "name": "tiled",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_max": 25.0},
        "array": {"rows": rows, "cols": cols},
    }
    analog = analogize(layer[0], Target.model_validate(target), [layer[1]])
    program(analog, 0)
    (data,) = read_chip(analog).arrays.values()
    assert data.conductances is not None
    tiles = [data.on_tile(blocks) for blocks in data.tiles()]
    assert all(tile.shape[1] <= rows and tile.shape[2] <= cols for tile in tiles)
    found = np.sort(np.concatenate([tile[~np.isnan(tile)] for tile in tiles]))
    assert np.array_equal(found, np.sort(data.conductances.reshape(-1)))
    # The summary counts the same tiles.
    (op,) = operators(analog)
    from analogize.devices.tiles import count

    assert len(tiles) == count(op.product, op.array.shape, rows, cols)


def test_a_matrix_has_a_row_for_each_input_and_a_column_for_each_output() -> None:
    """The two layers of aihwkit's test of its conductance files."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).eval()
    given = [[[1.0, 0.2], [0.3, -0.4]], [[-0.5, 0.6], [0.7, -1.0]]]
    for layer, weight in zip(model, given, strict=True):
        layer.weight.data = torch.tensor(weight)
    target = {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_max": 1.0},
    }
    analog = analogize(model, Target.model_validate(target)).eval()
    program(analog, 0)
    chip = read_chip(analog)
    # Of output n and input k: w[n][k] in row k and column n, in siemens of 1 uS.
    assert chip["0"].plus[0] == pytest.approx(np.array([[1.0, 0.3], [0.2, 0.0]]) * 1e-6)
    assert chip["0"].minus[0] == pytest.approx(np.array([[0.0, 0.0], [0.0, 0.4]]) * 1e-6)
    assert chip["1"].plus[0] == pytest.approx(np.array([[0.0, 0.7], [0.6, 0.0]]) * 1e-6)
    assert chip["1"].minus[0] == pytest.approx(np.array([[0.5, 0.0], [0.0, 1.0]]) * 1e-6)

    measured = {name: (np.random.rand(2, 2), np.random.rand(2, 2)) for name in ("0", "1")}
    program(analog, Chip.measured(measured, unit="uS"))
    x = torch.randn(5, 2)
    expected = x.double().numpy()
    for plus, minus in measured.values():
        expected = expected @ (plus - minus)
    assert analog(x).detach().numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)
