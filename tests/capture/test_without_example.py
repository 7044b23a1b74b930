"""Without example inputs: a weight that Python reads itself is told or refused, never digital."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from analogize import Target, analogize, load, noise_mode, save, summary, to_digital
from analogize.errors import CaptureError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
TARGET = Target.model_validate(
    {
        "name": "t",
        "weights": {"range": {"kind": "absmax"}},
        "noise": [{"model": "gaussian", "eta": 0.05}],
    }
)


class Reads(nn.Module):
    """``use`` is how its forward multiplies by the weight of ``inner``."""

    def __init__(self, use: Any = None) -> None:
        super().__init__()
        self.inner, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(x)
        return self.inner(x) if self.use is None else self.use(self, x)  # type: ignore[no-any-return]


USES = {
    "linear": lambda m, x: F.linear(x, m.inner.weight),
    "keywords": lambda m, x: F.linear(input=x, weight=m.inner.weight, bias=m.inner.bias),
    "operator": lambda m, x: x @ m.inner.weight.t(),
    "reversed": lambda m, x: (m.inner.weight @ x.t()).t(),
    "addmm": lambda m, x: torch.addmm(m.inner.bias, x, m.inner.weight.T),
    "einsum": lambda m, x: torch.einsum("bi,oi->bo", x, m.inner.weight),
    "a slice": lambda m, x: F.linear(x, m.inner.weight[:2]),
    "scaled": lambda m, x: F.linear(x, 2 * m.inner.weight),
    "detached": lambda m, x: x @ m.inner.weight.detach().t(),
    "data": lambda m, x: x @ m.inner.weight.data.t(),
    "getattr": lambda m, x: x @ getattr(m.inner, "weight"),  # noqa: B009 - the way that is tested
    "a method": lambda m, x: x.matmul(m.inner.weight),
    "stacked": lambda m, x: torch.bmm(x[None], torch.stack([m.inner.weight])),
}


@pytest.mark.parametrize("use", USES)
def test_a_product_with_a_layers_weight_is_refused(use: str) -> None:
    analog = analogize(Reads(), TARGET)
    analog(X)
    analog.use = USES[use]
    with pytest.raises(CaptureError, match=r"weight of 'inner'.*example_inputs"):
        analog(X)
    assert len(summary(analogize(Reads(USES[use]), TARGET, example_inputs=X)).rows) == 2


def scripted(m: Any, x: Tensor) -> Tensor:
    def product(x: Tensor, weight: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, weight)

    return torch.jit.script(product)(x, m.inner.weight)  # type: ignore[no-any-return, no-untyped-call]


def written_over(m: Any, x: Tensor) -> Tensor:
    w = torch.empty(4, 4)
    w.copy_(m.inner.weight)
    return F.linear(x, w)


def another_layer(m: Any, x: Tensor) -> Tensor:
    other = nn.Linear(4, 4)
    other.load_state_dict(m.inner.state_dict(), strict=False)
    return other(x)  # type: ignore[no-any-return]


def empty_layer(m: Any, x: Tensor) -> Tensor:
    other, inside = nn.Linear(4, 4, device="meta"), dict(m.inner.named_parameters())
    return torch.func.functional_call(other, inside, (x,))


# Past the reading of the layer's attribute: from registers, and as copies.
HIDDEN = {
    "parameters": lambda m, x: F.linear(x, next(m.inner.parameters())),
    "parameters of all": lambda m, x: F.linear(x, list(m.parameters())[0]),  # noqa: RUF015
    "named_parameters": lambda m, x: F.linear(x, dict(m.named_parameters())["inner.weight"]),
    "a register": lambda m, x: F.linear(x, m.inner._parameters["weight"]),
    "vars": lambda m, x: F.linear(x, vars(m.inner)["_parameters"]["weight"]),
    "state_dict": lambda m, x: x @ m.state_dict()["inner.weight"].T,
    "functional_call": empty_layer,
    "another layer": another_layer,
    "a masked weight": lambda m, x: F.linear(x, m.inner.weight * (m.inner.weight > 0)),
    "a mask": lambda m, x: F.linear(x, m.inner.weight * torch.ones(4, 4)),
    "written over": written_over,
    "NumPy and back": lambda m, x: x @ torch.from_numpy(m.inner.weight.detach().numpy()).T,
    "by hand": lambda m, x: (x[:, None] * m.inner.weight).sum(-1),
    "an ATen operator": lambda m, x: torch.ops.aten.linear(x, m.inner.weight),
    "TorchScript": scripted,
    "sparse": lambda m, x: torch.sparse.mm(m.inner.weight.to_sparse(), x.t()).t(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("use", HIDDEN)
def test_a_weight_that_takes_another_way_is_refused(use: str, with_gradients: bool) -> None:
    analog = analogize(Reads(HIDDEN[use]), TARGET)

    for _ in range(2):  # what was refused is no call that was looked at
        with (
            torch.set_grad_enabled(with_gradients),
            pytest.raises(CaptureError, match=r"weight of 'inner'.*example_inputs"),
        ):
            analog(X)


class Switched(nn.Module):
    """Another kind of call, by argument or mode, is looked at as the first one was."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, raw: bool = False) -> Tensor:
        if raw or self.training:
            return F.linear(x, next(self.inner.parameters()))
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("example", [None, X])
def test_another_kind_of_call_is_looked_at(example: Any) -> None:
    analog = analogize(Switched().eval(), TARGET, example_inputs=example)
    for _ in range(2):
        analog(X)

    for call in (lambda: analog(X, raw=True), lambda: analog.train()(X)):
        with pytest.raises(CaptureError, match="weight of 'inner'"):
            call()


def test_a_weight_taken_to_numpy_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = Reads(lambda m, x: torch.from_numpy(x.numpy() @ m.inner.weight.detach().numpy().T))
    model.own = nn.Identity()  # type: ignore[assignment]

    with torch.no_grad():
        analogize(model, TARGET)(X)

    assert "takes the weight of 'inner' out of torch" in caplog.text


class Branches(nn.Module):
    """The example calls ``inner``; with ``raw`` its weight, or the embedding's, is read by hand."""

    def __init__(self, direct: bool) -> None:
        super().__init__()
        self.inner, self.embed = nn.Linear(4, 4), nn.Embedding(7, 4)
        self.own = nn.Parameter(torch.randn(4, 4)) if direct else None
        self.raw = ""

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y = y if self.own is None else F.linear(y, self.own)
        layer = getattr(self, self.raw or "inner")
        return F.linear(y, layer.weight) if self.raw else self.inner(y)


@pytest.mark.parametrize(
    "make", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("layer", ["inner", "embed"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_branch_that_the_example_did_not_take(direct: bool, layer: str, make: Any) -> None:
    x = torch.tensor([1, 2])
    analog = make(analogize(Branches(direct), TARGET, example_inputs=x))
    assert analog.report.capture == ("intercept" if direct else "hierarchical")
    analog(x)

    analog.raw = layer

    with pytest.raises(CaptureError, match=f"weight of '{layer}'.*example_inputs"):
        analog(x)
    digital = to_digital(analog)
    assert [type(m) for m in digital.children()] == [nn.Linear, nn.Embedding]
    digital(x)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_refuse_it_too(make: Any) -> None:
    model = nn.Sequential(Tied())
    analog = make(analogize(model, TARGET))
    with pytest.raises(CaptureError, match=r"weight of '0.embed'"):
        analog(torch.tensor([1, 2]))


@pytest.mark.parametrize("computed", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_computed_weight_is_watched(computed: Any) -> None:
    model = Reads()
    computed(model.inner)
    analog = analogize(model, TARGET).eval()
    with noise_mode(analog, "off"):
        torch.testing.assert_close(analog(X), model.eval()(X))
    analog.use = USES["linear"]
    with pytest.raises(CaptureError, match="weight of 'inner'"):
        analog(X)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.body(self.embed(x)), self.embed.weight)


def test_a_head_tied_to_an_embedding_is_refused() -> None:
    x = torch.tensor([1, 2])
    with pytest.raises(CaptureError, match="weight of 'embed'"):
        analogize(Tied(), TARGET)(x)
    assert len(summary(analogize(Tied(), TARGET, example_inputs=x)).rows) == 2


def test_torchs_fused_encoder_does_not_pass_by_its_analog_layers() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    x = torch.randn(2, 3, 4)
    for example in (None, x):
        analog = analogize(model, TARGET, example_inputs=example).eval()
        with torch.no_grad():
            assert not torch.equal(analog(x), analog(x))
            with noise_mode(analog, "off"):
                torch.testing.assert_close(analog(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_part_called_alone_is_watched() -> None:
    analog = analogize(nn.Sequential(Reads()), TARGET)
    analog[0].use = USES["linear"]
    with pytest.raises(CaptureError, match=r"weight of '0.inner'"):
        analog[0](X)


class Holds(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        if way == "registered":
            self.again = self.inner.weight
        elif way == "list":
            self.kept = {"all": [self.inner.weight]}
        else:
            weight = self.inner.weight
            self.function = lambda x: F.linear(x, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["registered", "list", "closure"])
def test_a_weight_held_elsewhere_is_told(way: str) -> None:
    told = summary(analogize(Holds(way), TARGET))
    assert any("example_inputs" in d.reason and d.name == "(model)" for d in told.digital)


def test_it_is_saved_loaded_and_undone(tmp_path: Any) -> None:
    analog = analogize(Reads(), TARGET)
    save(analog, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", Reads())
    again.use = USES["linear"]
    with pytest.raises(CaptureError, match="weight of 'inner'"):
        again(X)
    digital = to_digital(analog)
    assert type(digital) is Reads
    assert type(digital.inner) is nn.Linear
