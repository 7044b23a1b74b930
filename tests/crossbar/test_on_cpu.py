"""A copy of an array on the CPU: what an accelerator's chips are drawn on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, program, read_chip
from analogize.crossbar.given import give
from analogize.crossbar.ops import operators
from analogize.targets import load_target, names

# Large enough to be drawn in blocks, and a convolution that is not.
LAYERS = {"blocks": nn.Linear(400, 400), "whole": nn.ConvTranspose2d(4, 6, 3, groups=2)}


def model_of(name: str, target: str) -> nn.Module:
    layer = copy.deepcopy(LAYERS[name])
    x = torch.randn(4, 400) if name == "blocks" else torch.randn(2, 4, 5, 5)
    return analogize(layer, target, [x]).eval()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("target", names())
def test_it_draws_the_arrays_own_chip(target: str, name: str) -> None:
    model = model_of(name, target)
    drifts = any(m.model in ("pcm_drift", "conductance_drift") for m in load_target(target).noise)
    time = 3600.0 if drifts else 0.0
    program(model, 7, drift_time=time)
    (op,) = operators(model)
    array = op.array
    expected, correction, buffers = array.chip, array.correction, dict(array.named_buffers())
    weight = op.stored.value().detach()

    twin = array.on_cpu()
    assert twin.chip is None
    twin.program(weight.clone(), 7, time)

    assert {id(b) for b in buffers.values()} == {id(b) for b in array.buffers()}
    assert expected is not None
    assert twin.chip is not None
    assert twin.chip.data_ptr() != expected.data_ptr()
    assert torch.equal(twin.chip, expected)
    assert (correction is None) == (twin.correction is None)
    if correction is not None:
        assert torch.equal(twin.correction, correction)
    array.erase()
    assert twin.chip is not None
    array.take(twin, weight.device)
    assert torch.equal(array.chip, expected)


@pytest.mark.parametrize("target", ["pcm_joshi2020", "isaac", "pcm_8bit"])
def test_it_takes_the_chip_that_was_read(target: str) -> None:
    model = model_of("blocks", target)
    program(model, 7)
    (op,) = operators(model)
    expected, chip = held(op.array.chip), read_chip(model)
    op.array.erase()
    twin = op.array.on_cpu()
    weight = op.stored.value().detach()
    (region,) = chip
    give(twin, weight.clone(), chip, 0.0, None, 0, region)
    assert torch.equal(held(twin.chip), expected)
    assert op.array.chip is None


def test_both_sides_of_an_array_are_copied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 20))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(F.linear(x, self.w)), self.w.t())

    fields: dict[str, Any] = load_target("pcm_8bit").model_dump(by_alias=True)
    fields["array"] |= {"transposable": True}
    target = Target.model_validate(fields)
    x = torch.randn(6, 20)
    model = analogize(Tied(), target, [x], example_inputs=x).eval()
    program(model, 7)
    (array,) = {op.array for op in operators(model) if op.array.home is not op.array}
    twin = array.on_cpu()
    assert twin.home is not array.home
    assert twin.home.chip is None
    weight = model.get_parameter("w").detach().mT
    assert torch.equal(twin.draw(weight, 7), held(array.chip))


def held(chip: Tensor | None) -> Tensor:
    assert chip is not None
    return chip
