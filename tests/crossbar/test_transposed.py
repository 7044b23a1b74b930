"""W and its transpose on one array: the same cells, read from either side."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import (
    Target,
    analogize,
    load,
    load_chip,
    noise_mode,
    program,
    read_chip,
    save,
    save_chip,
    summary,
)
from analogize.crossbar.ops import operators

X = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
PROGRAMMING = {"model": "programming", "sigma": {"kind": "polynomial", "coefficients": [2.0]}}
DRIFT = {
    "model": "drift",
    "t0": 20.0,
    "nu_mean": {"kind": "polynomial", "coefficients": [0.06]},
    "nu_std": {"kind": "polynomial", "coefficients": [0.01]},
}


class Tied(nn.Module):
    """An autoencoder whose decoder is the transpose of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 20))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.w)), self.w.t())


def target(transposable: bool = True, devices: bool = True, **more: Any) -> Target:
    fields: dict[str, Any] = {
        "name": "two sides",
        "weights": {"range": {"kind": "absmax"}, "bits": 8, "grid": "symmetric"},
        "array": {"rows": 12, "cols": 5, "tiling": True, "transposable": transposable},
        "noise": [{"model": "gaussian", "eta": 0.05}],
    }
    if devices:
        fields |= {"conductance": {"g_max": 25.0}, "noise": [PROGRAMMING, DRIFT]}
    return Target.model_validate(fields | more)


def rewritten(given: Target) -> nn.Module:
    torch.manual_seed(0)
    return analogize(Tied().eval(), given, [X], example_inputs=X).eval()


def two(model: nn.Module) -> list[Tensor]:
    found = [op.array.chip for op in operators(model)]
    assert len(found) == 2
    return [chip for chip in found if chip is not None]


@pytest.mark.parametrize("devices", [True, False])
@pytest.mark.parametrize("later", [{}, {"drift_time": "1 h", "compensation": "global"}])
def test_a_chip_holds_both(devices: bool, later: dict[str, Any]) -> None:
    if later and not devices:
        return
    model = rewritten(target(devices=devices))
    program(model, 3, **later)
    encoder, decoder = two(model)
    assert encoder.shape == (8, 20)
    assert torch.equal(decoder, encoder.T)
    first, second = (op.array.correction for op in operators(model))
    assert (first is None) == (second is None) == (not later)
    assert first is None or second is None or torch.equal(first, second)
    assert torch.equal(model(X), model(X))
    # The encoder's chip is what it is without a second side.
    alone = rewritten(target(False, devices=devices))
    program(alone, 3, **later)
    assert torch.equal(two(alone)[0], encoder)
    assert not torch.equal(two(alone)[1], encoder.T)


class Units(nn.Module):
    """What both sides hold, by unit inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 20))

    def forward(self, eye: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(eye, self.w), F.linear(eye[:8, :8], self.w.t())


@pytest.mark.parametrize("devices", [True, False])
def test_a_pass_draws_once_for_both(devices: bool) -> None:
    torch.manual_seed(0)
    eye = torch.eye(20)
    model = analogize(Units().eval(), target(devices=devices), example_inputs=(eye,)).eval()
    with noise_mode(model, "fresh"), torch.no_grad():
        encoder, decoder = model(eye)
        again, _ = model(eye)
    # No converter has bits, so that unit inputs read the weights themselves.
    assert torch.allclose(encoder, decoder.T, rtol=0, atol=1e-6)
    assert float((encoder - model.w.T).detach().std()) > 0.01
    assert not torch.allclose(encoder, again, atol=1e-3)


@pytest.mark.parametrize("form", ["chip.npz", "chip"])
def test_the_cells_go_out_once_and_in_for_both(form: str, tmp_path: Path) -> None:
    model, other = rewritten(target()), rewritten(target())
    program(model, 3, drift_time="1 h", compensation="global")
    chip = read_chip(model)
    assert list(chip) == ["w"]
    save_chip(chip, tmp_path / form)
    program(other, load_chip(tmp_path / form))
    assert all(torch.equal(a, b) for a, b in zip(two(model), two(other), strict=True))
    assert torch.equal(model(X), other(X))


def test_a_copy_and_a_file_keep_both(tmp_path: Path) -> None:
    model = rewritten(target())
    program(model, 3)
    again = copy.deepcopy(model)
    assert torch.equal(again(X), model(X))
    program(again, 4)
    first, second = two(again)
    assert torch.equal(second, first.T)
    assert not torch.equal(first, two(model)[0])
    save(model, tmp_path / "m.safetensors", chip=True)
    torch.manual_seed(0)
    loaded = load(tmp_path / "m.safetensors", Tied().eval()).eval()
    assert torch.equal(loaded(X), model(X))
    # Changed weights are noticed from both sides.
    model.w.data.mul_(0.5)  # type: ignore[operator, union-attr]
    for op in operators(model):
        with pytest.raises(Exception, match="weights changed"):
            op.array.programmed(op.stored.value(), op.stored)


def test_tiles_are_counted_once_and_turned() -> None:
    found = summary(rewritten(target()))
    encoder, decoder = found.rows
    # 20 rows on 12, 8 columns on 5.
    assert encoder.tiles == decoder.tiles == 4
    assert decoder.shares_array_with == encoder.region.name
    assert found.work is not None
    assert found.work.tiles == 4
    assert [layer.tiles for layer in found.work.layers] == [4, 0]
    # From the other side two columns of tiles are driven, with five inputs each.
    assert [op.tile_size.rows for op in operators(found.model) if op.tile_size] == [12, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"range": {"kind": "absmax"}, "granularity": "channel"}}, "are rows from"),
        ({"conductance": {"g_max": 25.0, "scale": "column"}}, "are rows from"),
        ({"conductance": {"g_max": 25.0, "encoding": "offset"}}, "reference column"),
        ({"compensation": "column"}, "one side alone"),
    ],
)
def test_what_belongs_to_one_side_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target(**change)
