from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import AnalogModule, Target, analogize, export_onnx, load_onnx, program
from analogize.crossbar.ops import bypassed, operators
from analogize.crossbar.side import DigitalSide, make_side

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4, bias=False)
    )


@pytest.fixture
def chip(quantized: Callable[..., Target]) -> AnalogModule:
    model = analogize(network().eval(), quantized(eta=0.1), [X])
    program(model, 3)
    return model


def give_sides(model: nn.Module, rank: int | None = 2) -> None:
    """A side to every operator, with a branch of that rank, or of full rank (None)."""
    for op in operators(model):
        make_side(op)
        side = op.side
        assert side is not None
        side.scale = torch.rand_like(side.scale) + 0.5
        side.offset = torch.randn_like(side.offset)
        rows = len(side.scale) if rank is None else rank
        side.down = torch.randn(rows, *op.array.shape[1:]) / 10
        side.up = None if rank is None else torch.randn(len(side.scale), rank)


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    result: Tensor = model(X)
    return result


def test_it_starts_as_the_identity(chip: AnalogModule) -> None:
    before = outputs(chip)
    for op in operators(chip):
        make_side(op)
    assert torch.equal(outputs(chip), before)


def test_scale_offset_and_branch_by_hand(chip: AnalogModule) -> None:
    last = operators(chip)[-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    before = outputs(chip)
    handle.remove()
    make_side(last)
    side = last.side
    assert side is not None
    side.scale, side.offset = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4)
    side.down, side.up = torch.randn(2, 288), torch.randn(4, 2)
    expected = before * side.scale + 1 + seen[0] @ (side.up @ side.down).T
    # float32 sums of 288 products of order 1.
    torch.testing.assert_close(outputs(chip), expected, rtol=1e-5, atol=1e-4)


def test_the_digital_model_knows_nothing_of_it(chip: AnalogModule) -> None:
    with bypassed(chip):
        before = outputs(chip)
        give_sides(chip)
        assert torch.equal(outputs(chip), before)


@pytest.mark.parametrize("rank", [2, None])
def test_it_is_saved_loaded_copied_and_exported(
    chip: AnalogModule, quantized: Callable[..., Target], rank: int | None, tmp_path: Path
) -> None:
    give_sides(chip, rank)
    expected = outputs(chip)
    fresh = analogize(network().eval(), quantized(eta=0.1), [X])
    fresh.load_state_dict(chip.state_dict())
    program(fresh, 3)
    assert torch.equal(outputs(fresh), expected)
    assert torch.equal(outputs(copy.deepcopy(chip)), expected)
    file = tmp_path / "model.onnx"
    export_onnx(chip, file, X, noise="programmed")
    session = onnxruntime.InferenceSession(file)
    (found,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    # The branch is a float32 product, whose sums may be ordered otherwise.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs(load_onnx(file)), expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_sides_saves_none(chip: AnalogModule) -> None:
    assert not any(".side" in name for name in chip.state_dict())


def test_its_cost_is_counted(chip: AnalogModule) -> None:
    give_sides(chip, rank=2)
    side = operators(chip)[0].side
    assert isinstance(side, DigitalSide)
    # Scale and offset of 8 channels; 2 kernels of 27 weights, and 8 x 2 to bring them together.
    assert side.parameters_and_macs == (16 + 54 + 16, 8 + 54 + 16)
