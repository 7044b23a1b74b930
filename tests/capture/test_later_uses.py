"""Uses of weights that the example did not show: in branches on values, as distances, with out=."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import Target, analogize, noise_mode, regions, summary, to_digital
from analogize.errors import CaptureError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
TARGET = Target.model_validate(
    {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}},
        "noise": [{"model": "gaussian", "eta": 0.05}],
    }
)

# How Python may learn that the values of an input are large.
CONDITIONS: dict[str, Any] = {
    "truth": lambda x: x.sum() > 1000,
    "item": lambda x: x.sum().item() > 1000,
    "float": lambda x: float(x.sum()) > 1000,
    "list": lambda x: max(map(max, x.tolist())) > 1000,
    "NumPy": lambda x: x.detach().numpy().max() > 1000,
    "equal": lambda x: not torch.equal(x.clamp(max=1000), x),
    "nonzero": lambda x: len((x > 1000).nonzero()) > 0,
    "masked": lambda x: len(x[x > 1000]) > 0,
    "unique": lambda x: len((x > 1000).unique()) == 1 and bool((x > 1000).all()),
}
# Past the layer's attribute, where no stand-in is seen.
USES: dict[str, Any] = {
    "register": lambda m, x: F.linear(x, m.inner._parameters["weight"]),
    "copy": lambda m, x: x @ m.state_dict()["inner.weight"].clone().T,
    "optimizer": lambda m, x: F.linear(x, next(m.inner.parameters()) * 1.0),
}


class Branching(nn.Module):
    """Multiplies by a layer's weight, or its own matrix, where the input is large."""

    def __init__(self, condition: Any, use: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.own = nn.Parameter(torch.randn(4, 4))
        self.condition, self.use = condition, use

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) + self.own.sum(0)
        return self.use(self, y) if self.condition(x) else y  # type: ignore[no-any-return]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("example", [None, X])
def test_a_branch_on_values_taken_later(condition: str, use: str, example: Any) -> None:
    analog = analogize(
        Branching(CONDITIONS[condition], USES[use]), TARGET, example_inputs=example
    ).eval()

    with torch.no_grad():
        for _ in range(3):
            analog(X)
        for _ in range(2):
            with pytest.raises(CaptureError, match="weight of 'inner'"):
                analog(X + 5000)


def test_a_call_that_reads_no_values_ends_no_looking() -> None:
    model = Branching(lambda x: reads[0] and x.sum() > 1000, USES["register"])
    reads = [True]
    analog = analogize(model, TARGET, example_inputs=X).eval()

    with torch.no_grad():
        analog(X)
        reads[0] = False
        analog(X)
        reads[0] = True
        with pytest.raises(CaptureError, match="weight of 'inner'"):
            analog(X + 5000)


def test_a_model_that_reads_no_values_is_looked_at_once() -> None:
    analog = analogize(Branching(lambda x: False, None), TARGET, example_inputs=X).eval()

    with torch.no_grad():
        analog(X)
        seen = set(analog.__dict__["_analog_seen"])
        analog(X + 5000)

    assert len(seen) == 1
    assert seen == analog.__dict__["_analog_seen"]


@pytest.mark.parametrize(
    "around", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_matrix_of_no_layer_multiplied_later_is_told(
    around: Any, caplog: pytest.LogCaptureFixture
) -> None:
    analog = around(analogize(Branching(_is_large, _times_own), TARGET, example_inputs=X)).eval()
    with torch.no_grad():
        analog(X)
        assert [d.name for d in summary(analog).digital] == []
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                analog(X + 5000)

    assert [d.name for d in summary(analog).digital] == ["own"]
    assert [r for r in caplog.messages if "'own' runs digitally" in r] == caplog.messages
    assert len(caplog.messages) == 1
    assert type(to_digital(analog)) is Branching


def _is_large(x: Tensor) -> Tensor:
    return x.sum() > 1000


def _times_own(m: Any, x: Tensor) -> Tensor:
    return x @ m.own


class Compares(nn.Module):
    """``how`` compares what a layer returns with stored vectors."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.inner, self.prototypes = nn.Linear(4, 4), nn.Parameter(torch.randn(5, 4))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, self.inner(x))  # type: ignore[no-any-return]


DISTANCES: dict[str, Any] = {
    "cdist": lambda x, w: torch.cdist(x, w),
    "cosine_similarity": lambda x, w: F.cosine_similarity(x[:, None], w[None], dim=-1),
    "pairwise_distance": lambda x, w: F.pairwise_distance(x[:, None], w[None]),
}


@pytest.mark.parametrize("capture", ["auto", "fx"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_to_stored_vectors_is_told(distance: str, capture: Any) -> None:
    of = DISTANCES[distance]
    model = Compares(lambda m, x: of(x, m.prototypes)).eval()
    analog = analogize(model, TARGET, example_inputs=X, capture=capture)

    (left,) = summary(analog).digital
    assert left.operator == distance
    assert "no array computes" in left.reason
    assert not left.chosen
    assert len(regions(analog)) == 1
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(X), model(X))


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_to_a_layers_weight_is_refused_or_told(distance: str) -> None:
    of = DISTANCES[distance]
    model = Compares(lambda m, x: of(x, m.inner.weight)).eval()
    with pytest.raises(CaptureError, match=r"weight of 'inner'.*example_inputs"):
        analogize(model, TARGET)(X)

    analog = analogize(model, TARGET, example_inputs=X)
    assert ("inner.weight", distance) in [(d.name, d.operator) for d in summary(analog).digital]
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(X), model(X))


INTO: dict[str, Any] = {
    "linear": lambda m, x, out: torch._C._nn.linear(x, m.weight, out=out),
    "matmul": lambda m, x, out: torch.matmul(x, m.weight, out=out),
    "mm": lambda m, x, out: torch.mm(x, m.weight, out=out),
    "addmm": lambda m, x, out: torch.addmm(torch.ones(4), x, m.weight, out=out),
}


class Into(nn.Module):
    """Multiplies by its own matrix into a tensor it is given."""

    def __init__(self, use: Any) -> None:
        super().__init__()
        self.weight, self.use = nn.Parameter(torch.randn(4, 4)), use

    def forward(self, x: Tensor, size: int = 3) -> Tensor:
        out = torch.empty(size, 4)
        assert self.use(self, x, out) is out
        return out


@pytest.mark.parametrize("use", INTO)
def test_a_product_into_a_given_tensor_is_analog(use: str) -> None:
    model = Into(INTO[use])
    with torch.no_grad():
        analog = analogize(model, TARGET, example_inputs=X)
        with noise_mode(analog, "off"):
            torch.testing.assert_close(analog(X), model(X))
            torch.testing.assert_close(analog(X, 0), model(X))  # an empty one takes the shape
        with noise_mode(analog, "fresh"):
            assert not torch.equal(analog(X), analog(X))
    assert len(regions(analog)) == 1
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        analog(X)
