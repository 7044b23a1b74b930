"""Without example inputs: weights read for no product, or written, are the original's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from analogize import Target, analogize, noise_mode

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
WEIGHTS = {"range": {"kind": "absmax"}}
NOISE = [{"model": "gaussian", "eta": 0.05}]
TARGET = Target.model_validate({"name": "t", "weights": WEIGHTS, "noise": NOISE})


class Reads(nn.Module):
    """``use`` is how its forward multiplies by the weight of ``inner``."""

    def __init__(self, use: Any = None) -> None:
        super().__init__()
        self.inner, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(x)
        return self.inner(x) if self.use is None else self.use(self, x)  # type: ignore[no-any-return]


class Learns(nn.Module):
    """Learned queries, norms by power iteration, penalties: no product passes by an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 4))
        self.positions = nn.Embedding(3, 4)
        self.query, self.key = nn.Linear(4, 4), parametrizations.spectral_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.query(self.queries), self.key(x + self.positions(torch.arange(3)))
        penalty = sum(p.square().sum() for p in self.parameters())
        gram = (self.query.weight @ self.query.weight.T).trace()
        out: Tensor = F.softmax(q @ k.T, -1) @ x + 1e-3 * (penalty + gram)
        return out


@pytest.mark.parametrize("example", [None, X])
def test_products_of_activations_and_of_weights_are_let_alone(example: Any) -> None:
    model = Learns()
    analog = analogize(model, TARGET, example_inputs=example)

    for module in (analog, model):
        module.train()(X).sum().backward()
        module.eval()
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(X), model(X))


HARMLESS = {
    "its dtype": lambda m, x: m.inner(x.to(m.inner.weight.dtype)),
    "its device": lambda m, x: m.inner(x.to(m.inner.weight.device)),
    "its shape": lambda m, x: m.inner(x.view(-1, m.inner.weight.shape[1])),
    "its norm": lambda m, x: m.inner(x) * m.inner.weight.norm(),
    "a penalty": lambda m, x: m.inner(x) + (m.inner.weight @ m.inner.weight.t()).trace(),
    "its identity": lambda m, x: m.inner(x) * isinstance(m.inner.weight, nn.Parameter),
}


@pytest.mark.parametrize("use", HARMLESS)
def test_what_is_no_product_is_the_originals(use: str) -> None:
    model = Reads(HARMLESS[use])
    analog = analogize(model, TARGET)
    with noise_mode(analog, "off"):
        y, expected = analog(X), model(X)
        torch.testing.assert_close(y, expected)
    assert type(y) is Tensor
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(analog.inner.weight.grad, model.inner.weight.grad)


def test_weights_written_in_forward_are_written() -> None:
    def constrained(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.inner.weight.clamp_(-0.125, 0.125)
        m.own.weight.data = m.own.weight.data / 2
        return m.inner(x)  # type: ignore[no-any-return]

    model = Reads(constrained)
    analog = analogize(model, TARGET)
    with noise_mode(analog, "off"):
        for _ in range(2):
            torch.testing.assert_close(analog(X), model(X), rtol=0.01, atol=0.01)
    assert float(analog.inner.weight.detach().abs().max()) == 0.125
    assert analog.own.weight.equal(model.own.weight)
    assert type(analog.own.weight) is nn.Parameter


def test_outside_of_a_forward_a_weight_is_the_parameter() -> None:
    analog = analogize(Reads(), TARGET)
    assert type(analog.inner.weight) is nn.Parameter
    (analog(X).sum() + (analog.inner.weight @ X.t()).sum()).backward()
    assert analog.inner.weight is dict(analog.named_parameters())["inner.weight"]


def test_it_compiles() -> None:
    analog = analogize(Reads(), TARGET).eval()
    with noise_mode(analog, "off"), torch.no_grad():
        compiled = torch.compile(analog, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), analog(X))


def test_a_sequential_is_compiled_as_one_graph() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    analog = analogize(layers, TARGET).eval()
    torch._dynamo.reset()
    counter = CompileCounter()
    torch.compile(analog, backend=counter)(torch.randn(2, 4))
    assert counter.frame_count == 1
