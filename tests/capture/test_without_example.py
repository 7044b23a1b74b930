"""Without example inputs: a weight that Python reads itself is told or refused, never digital."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
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


def test_torchs_fused_encoder_does_not_pass_by_its_analog_layers() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    x = torch.randn(2, 3, 4)
    for example in (None, x):
        analog = analogize(model, TARGET, example_inputs=example).eval()
        with torch.no_grad():
            assert not torch.equal(analog(x), analog(x))
            with noise_mode(analog, "off"):
                torch.testing.assert_close(analog(x), model(x), rtol=1e-4, atol=1e-5)


def test_outside_of_a_forward_a_weight_is_the_parameter() -> None:
    analog = analogize(Reads(), TARGET)
    assert type(analog.inner.weight) is nn.Parameter
    (analog(X).sum() + (analog.inner.weight @ X.t()).sum()).backward()
    assert analog.inner.weight is dict(analog.named_parameters())["inner.weight"]


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
