"""Digital correction of drift: array by array, tile by tile, column by column."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analogize import analogize, export_onnx, load_chip, program, read_chip, save_chip
from analogize.crossbar.ops import operators
from analogize.devices.compensation import against_weights, factors
from analogize.devices.layout import Layout
from analogize.errors import ChipError, ExportError
from analogize.product import BatchedLinear, Convolution, Linear, Product
from analogize.saving.digital import chip_weights
from analogize.targets.spec import Target

CONV = Convolution("conv2d", (1, 1), (1, 1), (1, 1))
DEPTHWISE = Convolution("conv2d", (1, 1), (1, 1), (1, 1), groups=7)
TRANSPOSED = Convolution("conv_transpose2d", (1, 2), (0, 0), (1, 1), True, (0, 0), 3)


@pytest.mark.parametrize(
    ("product", "shape", "size"),
    [
        (Linear(), (9, 11), (4, 5)),
        (Linear(), (3, 4), (16, 16)),
        (BatchedLinear((3,)), (3, 4, 7), (5, 3)),
        (CONV, (6, 3, 2, 2), (5, 4)),
        (DEPTHWISE, (7, 1, 3, 3), (30, 5)),
        (TRANSPOSED, (9, 2, 2, 3), (7, 5)),
    ],
)
def test_factors_undo_what_every_tile_lost(
    product: Product, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    """Every tile loses a share of its own; the factors bring back all weights."""
    torch.manual_seed(0)
    layout, weights = Layout(product, torch.Size(shape), *size), torch.randn(*shape).double()
    groups, height, width = product.matrix(torch.Size(shape))
    together = max(1, min(size[0] // height, size[1] // width))
    rows = 1 if together > 1 else -(-height // size[0])
    lost = torch.empty(rows, groups, width).double()
    for group in range(groups):
        for column in range(width):
            tile = (group // together, 0 if together > 1 else column // size[1])
            for row in range(rows):
                generator = torch.Generator().manual_seed(hash((*tile, row)) % 2**31)
                lost[row, group, column] = 0.2 + 0.8 * torch.rand((), generator=generator)
    drifted = weights * against_weights(lost.flatten(1), layout)
    found = factors(weights, drifted, product, "tile", layout)
    assert_close(found, 1 / lost.flatten(1))
    assert_close(drifted * against_weights(found, layout), weights)


DRIFT = {
    "model": "drift",
    "t0": 20.0,
    "nu_mean": {"kind": "polynomial", "coefficients": [0.05]},
    "nu_std": {"kind": "polynomial", "coefficients": [0.02]},
}
READ = {"model": "read", "sigma": {"kind": "polynomial", "coefficients": [2.0]}}


def target(*noise: dict[str, Any], tiling: bool = True, **more: Any) -> Target:
    given = {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}},
        "conductance": {"g_max": 25.0},
        "adc": {"bits": 16, "range": {"kind": "fixed", "min": -100.0, "max": 100.0}},
        "array": {"rows": 8, "cols": 4, "tiling": tiling},
        "noise": noise or (DRIFT,),
    }
    return Target.model_validate(given | more)


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(20, 10, bias=False)


X = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))


def chip(rule: Any, *noise: dict[str, Any], seed: int = 0, **more: Any) -> nn.Module:
    analog = analogize(layer(), target(*noise, **more)).eval()
    program(analog, seed, drift_time="1 month", compensation=rule)
    return analog


def test_every_tile_is_multiplied_by_its_factor() -> None:
    """What the chip computes is what its corrected weights do, to a step for each of 3 tiles."""
    analog = chip("tile")
    (op,) = operators(analog)
    assert op.array.correction is not None
    assert op.array.correction.shape == (3, 10)
    weights = chip_weights(op, analog.get_parameter("weight"))
    assert_close(analog(X), (X @ weights.T).detach(), rtol=0, atol=3 * 1.2 * 200 / 2**16)


def test_the_finer_the_correction_the_better() -> None:
    """Over chips, the error of a month's drift falls from array to tile to column."""
    ideal = layer()(X).detach()

    def error(rule: str) -> float:
        found = [chip(rule, seed=seed)(X).detach() - ideal for seed in range(8)]
        return float(torch.stack(found).square().mean())

    errors = [error(rule) for rule in ("none", "global", "tile", "column")]
    assert errors[0] > 2 * errors[1]
    assert errors[1] > errors[2] > errors[3]


def test_readings_for_the_correction_are_noisy() -> None:
    """Each factor is known by a reading alone: of 8 cells at 2 uS of 25, some percent."""
    clean = {**DRIFT, "nu_std": {"kind": "polynomial", "coefficients": [0.0]}}
    quiet = operators(chip("tile", clean))[0].array.correction
    noisy = operators(chip("tile", clean, READ))[0].array.correction
    assert quiet is not None
    assert noisy is not None
    assert float(quiet.std()) < 1e-5
    assert 0.01 < float((noisy / quiet - 1).std()) < 0.3
    again = operators(chip("tile", clean, READ))[0].array.correction
    assert torch.equal(noisy, again)  # type: ignore[arg-type]


def test_training_on_the_chip_sees_the_factors() -> None:
    analog = chip("tile")
    x = X.clone().requires_grad_()
    analog(x).sum().backward()
    (op,) = operators(analog)
    assert op.array.correction is not None
    assert op.array.layout is not None
    corrected = layer().weight * against_weights(op.array.correction, op.array.layout)
    assert_close(x.grad, corrected.sum(0).detach().expand_as(x))


def test_chips_with_it_are_exported_and_imported(tmp_path: Path) -> None:
    analog = chip("tile")
    y = analog(X)
    for name in ("chip.npz", "chip"):
        save_chip(read_chip(analog), tmp_path / name)
        program(analog, 5)
        program(analog, load_chip(tmp_path / name))
        assert torch.equal(analog(X), y)
    with pytest.raises(ExportError, match="corrected tile by tile"):
        export_onnx(analog, tmp_path / "m.onnx", X, noise="programmed")


def test_one_conversion_of_several_tiles_cannot_be_corrected_tile_by_tile() -> None:
    with pytest.raises(ChipError, match="one conversion is of all its tiles"):
        chip("tile", tiling=False)(X)
    one = {"rows": 20, "cols": 4, "tiling": False}
    assert chip("tile", array=one)(X).shape == (50, 10)


def test_it_needs_tiles() -> None:
    with pytest.raises(ValueError, match="it is about tiles, so give the target 'array'"):
        target(array=None, compensation="tile")
