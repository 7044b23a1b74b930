"""A copied part owns its weights, and a module taken out of its part keeps its names."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import Target, analogize, program, regions
from analogize.crossbar.ops import operators

Make = Callable[..., Target]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
DATA = [(X, torch.arange(16) % 3)]


def digital(outputs: int = 3) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    return layers.eval()


class Functional(nn.Module):
    """A weight that the model itself owns, and one that is computed."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.w, self.v = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.w)
        return x if self.plain else nn.functional.linear(x, torch.cat([self.v, self.v]).relu())


def pickled(model: nn.Module) -> nn.Module:
    again: nn.Module = pickle.loads(pickle.dumps(model))
    return again


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("capture", ["fx", "intercept"])
def test_a_copy_owns_its_weights(
    quantized: Make, capture: Any, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    inner = analogize(Functional(capture == "fx"), quantized(8, eta=0.1), DATA, capture=capture)
    model = nn.Sequential(nn.Linear(8, 8), inner).eval()
    twin = duplicate(model)
    assert twin.state_dict().keys() == model.state_dict().keys()
    for op, other in zip(operators(model), operators(twin), strict=True):
        assert torch.equal(op.stored.value(), other.stored.value())
    owned = {id(p) for p in twin.parameters()}
    sources = [p for op in operators(twin) for p in op.stored.sources() or [op.stored.value()]]
    assert sources
    assert all(id(p) in owned for p in sources)
    program(twin, 0)
    assert torch.equal(twin(X), twin(X))
    assert not torch.equal(model(X), model(X)), "the original has no chip"


def test_a_module_taken_out_of_its_part_keeps_its_names(quantized: Make) -> None:
    whole = analogize(digital(), quantized(8, eta=0.1), DATA, capture="hierarchical").eval()
    program(whole, 2)
    chip = operators(whole)[1].array.chip
    last = whole.get_submodule("3")
    assert [r.name for r in regions(last)] == ["3"]
    program(last, 2)
    assert torch.equal(operators(last)[0].array.chip, chip)  # type: ignore[arg-type]
