"""Every function that holds a product with a stored weight, on weights and on views of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, census, program, regions, summary
from analogize.targets.spec import Target

Product = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Arguments: x (B, T, 4); a vector (4,); a matrix (4, 4); a stack (2, 4, 4).
PRODUCTS: dict[str, Product] = {
    "matmul": lambda x, v, m, s: torch.matmul(x, m),
    "method": lambda x, v, m, s: x.matmul(m),
    "operator": lambda x, v, m, s: x @ m,
    "weight first": lambda x, v, m, s: m @ x.mT,
    "weight first on a vector": lambda x, v, m, s: m @ x[0, 0],
    "vector": lambda x, v, m, s: x @ v,
    "vector first": lambda x, v, m, s: v @ x.mT,
    "mm": lambda x, v, m, s: torch.mm(x[0], m),
    "mv": lambda x, v, m, s: torch.mv(m, x[0, 0]),
    "mv of an activation": lambda x, v, m, s: torch.mv(x[0], v),
    "dot": lambda x, v, m, s: torch.dot(x[0, 0], v)[None],
    "vdot": lambda x, v, m, s: torch.vdot(v, x[0, 0])[None],
    "inner": lambda x, v, m, s: torch.inner(x, m),
    "bmm": lambda x, v, m, s: torch.bmm(x[:2], s),
    "bmm, weight first": lambda x, v, m, s: torch.bmm(s, x[:2].mT),
    "stack": lambda x, v, m, s: x[:, None] @ s,
    "stack on a vector": lambda x, v, m, s: x[0, 0] @ s,
    "addmm": lambda x, v, m, s: torch.addmm(v, x[0], m, beta=0.5, alpha=2),
    "addmm method": lambda x, v, m, s: v.addmm(x[0], m),
    "addmm without the sum": lambda x, v, m, s: torch.addmm(v, x[0], m, beta=0),
    "addmv": lambda x, v, m, s: torch.addmv(v, m, x[0, 0]),
    "baddbmm": lambda x, v, m, s: torch.baddbmm(v, x[:2], s, alpha=3),
    "addbmm": lambda x, v, m, s: torch.addbmm(v, x[:2], s, beta=2),
    "linear": lambda x, v, m, s: F.linear(x, m, v),
    "linear on a vector": lambda x, v, m, s: F.linear(x[0, 0], m, v),
    "linear with a stored input": lambda x, v, m, s: F.linear(m, x[0]),
    "einsum": lambda x, v, m, s: torch.einsum("bti,oi->bto", x, m),
    "einsum by heads": lambda x, v, m, s: torch.einsum("btd,hde->bhte", x, s),
    "einsum per head": lambda x, v, m, s: torch.einsum("hbd,hde->hbe", x[:2], s),
    "einsum with an ellipsis": lambda x, v, m, s: torch.einsum("...i,io", x, m),
    "einsum of a sum": lambda x, v, m, s: torch.einsum("bti,io->bt", x, m),
    "tensordot": lambda x, v, m, s: torch.tensordot(x, m, 1),
    "tensordot over two": lambda x, v, m, s: torch.tensordot(x[:, :4], s, ([1, 2], [1, 2])),
    "multi_dot": lambda x, v, m, s: torch.linalg.multi_dot([x[0], m, s[0]]),
    "bilinear": lambda x, v, m, s: F.bilinear(x, x, s, v[:2]),
    "conv_tbc": lambda x, v, m, s: torch.conv_tbc(x, s, v),
    "conv1d": lambda x, v, m, s: F.conv1d(x.mT, s.permute(1, 2, 0), v, padding=1),
    "conv_transpose1d": lambda x, v, m, s: F.conv_transpose1d(x.mT, s.permute(1, 2, 0), stride=2),
    "experts": lambda x, v, m, s: torch.cat([x[i] @ s[int(x[i].sum() > 0)] for i in range(2)]),
}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda w: w,
    "view": lambda w: w.reshape(-1).view(w.shape),
    "transpose": lambda w: w.transpose(-1, 0).contiguous().transpose(-1, 0),
    "slice": lambda w: torch.cat([w, w])[: len(w)],
    "chunk": lambda w: torch.stack([w, w]).chunk(2)[1][0],
    "arithmetic": lambda w: (w * 2 - w.mean()) / w.std(),
}


class Direct(nn.Module):
    """One product on parameters, behind a branch that no graph can hold."""

    def __init__(self, product: Product, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.vector, self.matrix = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 4))
        self.stack = nn.Parameter(torch.randn(2, 4, 4))
        self.product, self.view = product, view

    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            return x
        weights = (self.view(w) for w in (self.vector, self.matrix, self.stack))
        return self.product(x, *weights)


def noisy() -> Target:
    fields: dict[str, Any] = {
        "schema": 1,
        "name": "noisy",
        "weights": {"range": {"kind": "absmax"}},
        "noise": [{"model": "gaussian", "eta": 0.1}],
    }
    return Target.model_validate(fields)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("view", ["itself", "arithmetic"])
def test_every_function(name: str, view: str) -> None:
    check(PRODUCTS[name], VIEWS[view])


@pytest.mark.parametrize("name", ["operator", "linear", "bmm", "einsum", "tensordot", "conv1d"])
@pytest.mark.parametrize("view", VIEWS)
def test_through_views(name: str, view: str) -> None:
    check(PRODUCTS[name], VIEWS[view])


def check(product: Product, view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Direct(product, view), torch.randn(3, 5, 4)
    analog = analogize(model, "ideal", example_inputs=x)
    assert summary(analog).converted_share == 1
    assert census(model, x).macs > 0
    torch.testing.assert_close(analog(x), model(x), rtol=1e-4, atol=1e-5)
    other = torch.randn(3, 5, 4)
    model.zero_grad()
    analog(other).sum().backward()
    model(other).sum().backward()
    for name, parameter in model.named_parameters():
        grad = analog.get_parameter(name).grad
        if grad is None and parameter.grad is not None and not parameter.grad.any():
            continue  # what is multiplied by zero is left out of the sum
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-5)
    # Through its operators: noise moves the result, and one chip keeps it.
    fuzzy = analogize(model, noisy(), example_inputs=x).eval()
    assert len(regions(fuzzy)) >= 1
    with torch.no_grad():
        assert not torch.equal(fuzzy(x), fuzzy(x))
        program(fuzzy, 0)
        assert torch.equal(fuzzy(x), fuzzy(x))


def test_what_no_rule_knows_is_reported() -> None:
    torchvision = pytest.importorskip("torchvision")

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Conv2d(3, 18, 3, padding=1)
            self.deform = torchvision.ops.DeformConv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.deform(x, self.offset(x))
            return y

    report = summary(analogize(Deformed(), "ideal", example_inputs=torch.randn(1, 3, 6, 6)))
    assert report.converted_share == pytest.approx(18 / 22)
    assert [(d.name, d.macs) for d in report.digital] == [("deform", 36 * 4 * 27)]


def test_linear_layers_of_graph_networks() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = geometric.GCNConv(4, 8)
            self.last = geometric.Linear(8, 2)
            self.kinds = geometric.HeteroLinear(2, 2, num_types=2)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            y: Tensor = self.last(self.first(x, edges).relu())
            return self.kinds(y, torch.arange(len(y)) % 2)  # type: ignore[no-any-return]

    model, x = Graph().eval(), torch.randn(5, 4)
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    analog = analogize(model, "ideal", example_inputs=(x, edges))
    assert summary(analog).converted_share == 1
    torch.testing.assert_close(analog(x, edges), model(x, edges))
    fuzzy = analogize(model, noisy(), example_inputs=(x, edges)).eval()
    assert not torch.equal(fuzzy(x, edges), fuzzy(x, edges))
