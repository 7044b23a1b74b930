"""What a model does besides computing stays as it was, whichever front end rewrote it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from analogize import analogize, noise_mode, program, regions, summary
from analogize.errors import CaptureError
from analogize.targets.spec import Target


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]


class Traced(nn.Module):
    """Embedding, convolution, BatchNorm, dropout, linear: one graph."""

    capture = "fx"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 4)

    def hidden(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(F.relu(self.norm(self.first(x).mT).mT))
        return y

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Output:
        y = self.hidden(x)
        if scale is not None:
            y = y * scale
        return Output(self.last(y), (x, y))


class Kept(Traced):
    """The same, with a branch on values."""

    capture = "hierarchical"

    def hidden(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("not a number")
        return super().hidden(x)


class Direct(Kept):
    """The same, with weights that Python uses directly."""

    capture = "intercept"

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(2, 8, 8) / 3)

    def hidden(self, x: Tensor) -> Tensor:
        a, b = self.mix
        return super().hidden(x) @ a.T + torch.einsum("...i,oi->...o", super().hidden(x), b)


FRONT_ENDS = [Traced, Kept, Direct]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(size: int = 4, length: int = 5) -> Tensor:
    return torch.randn(size, length, 6)


def rewritten(kind: type[Traced], target: Any = "ideal", **options: Any) -> tuple[Traced, Any]:
    model = kind()
    if kind is Traced:
        options["capture"] = "fx"
    analog = analogize(model, target, example_inputs=batch(), **options)
    assert summary(analog).capture == kind.capture
    assert summary(analog).converted_share == 1
    return model, analog


def noisy(eta: float = 0.1) -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 8}
    noise = [{"model": "gaussian", "eta": eta}]
    fields = {"schema": 1, "name": "noisy", "weights": weights, "noise": noise}
    return Target.model_validate(fields)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_training_after_evaluation_is_the_originals(kind: type[Traced]) -> None:
    model, analog = rewritten(kind)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, analog)]
    for step, train in enumerate((True, False, True, True)):
        x, results = batch(), []
        for each, optimizer in zip((model, analog), optimizers, strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            output = each.train(train)(x)
            output.logits.square().mean().backward()
            grads = [each.get_parameter(n).grad for n, _ in model.named_parameters()]
            buffers = [each.get_buffer(n).clone() for n, _ in model.named_buffers()]
            results.append([output.logits, *output.hidden, *grads, *buffers])
            optimizer.step()
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    # Dropout did fall: two seeds give two masks.
    torch.manual_seed(1)
    one = analog(batch()).logits
    assert not torch.equal(one, analog(batch()).logits)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_any_batch_size_and_length_and_dataclass_outputs(kind: type[Traced]) -> None:
    model, analog = rewritten(kind)
    for size, length in ((1, 5), (3, 5), (4, 1), (7, 9)):
        x = batch(size, length)
        actual, expected = analog.eval()(x), model.eval()(x)
        assert type(actual) is Output
        torch.testing.assert_close(actual.logits, expected.logits)
        torch.testing.assert_close(actual.hidden, expected.hidden)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_optional_arguments_are_right_or_refused(kind: type[Traced]) -> None:
    model, analog = rewritten(kind)
    x, scale = batch(), torch.randn(8)
    model.eval(), analog.eval()
    torch.testing.assert_close(analog(x=x, scale=None).logits, model(x).logits)
    if kind is Traced:
        with pytest.raises(CaptureError, match=r"'scale' was None.*capture='hierarchical'"):
            analog(x, scale=scale)
        given = analogize(model, "ideal", example_inputs={"x": x, "scale": scale}, capture="fx")
        assert summary(given).capture == "fx"
        torch.testing.assert_close(given(x, scale).logits, model(x, scale).logits)
        with pytest.raises(CaptureError, match="'scale' was a Tensor"):
            given(x)
    else:
        torch.testing.assert_close(analog(x, scale).logits, model(x, scale).logits)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_moves_flags_copies_and_names(kind: type[Traced]) -> None:
    model = kind()
    model.first.requires_grad_(False)
    analog = analogize(model, "ideal", example_inputs=batch())
    flags = {n: p.requires_grad for n, p in analog.named_parameters()}
    assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
    analog.last.requires_grad_(False)
    assert model.last.weight.requires_grad
    analog.train()(batch()).logits.sum().backward()
    assert analog.first.weight.grad is None
    assert analog.last.weight.grad is None
    assert list(model.state_dict()) == [k for k in analog.state_dict() if ".analog" not in k]
    x = batch().double()
    twin = copy.deepcopy(analog).double().eval()
    expected = copy.deepcopy(model).double().eval()
    expected.load_state_dict({k: twin.state_dict()[k] for k in expected.state_dict()})
    torch.testing.assert_close(twin(x).logits, expected(x).logits)
    assert next(analog.parameters()).dtype == torch.float32
    half = analog.eval().bfloat16()(batch().bfloat16()).logits
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_a_copy_has_weights_of_its_own(kind: type[Traced]) -> None:
    _, analog = rewritten(kind, noisy())
    analog.eval()
    x = batch()
    program(analog, 0)
    expected = analog(x).logits
    twin = copy.deepcopy(analog)
    with torch.no_grad():
        for parameter in analog.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(x).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_hooks_run_or_are_refused(kind: type[Traced]) -> None:
    model = kind()
    seen: list[str] = []
    model.last.register_forward_hook(lambda *_: seen.append("last"))
    analog = analogize(model, "ideal", example_inputs=batch())
    assert summary(analog).converted_share == 1
    seen.clear()
    analog.register_forward_hook(lambda *_: seen.append("model"))
    analog.first.register_full_backward_hook(lambda *_: seen.append("backward"))
    analog(batch().requires_grad_()).logits.sum().backward()
    assert seen[:3] == ["last", "model", "backward"]


def test_a_graph_refuses_hooks_it_would_never_call() -> None:
    _, analog = rewritten(Traced)
    for register in (
        analog.first.register_forward_hook,
        analog.last.register_forward_pre_hook,
        analog.first.register_full_backward_hook,
    ):
        with pytest.raises(CaptureError, match="would never call its hooks"):
            register(lambda *_: None)
    twin = copy.deepcopy(analog)
    with pytest.raises(CaptureError, match="would never call its hooks"):
        twin.first.register_forward_hook(lambda *_: None)
    seen: list[int] = []
    analog.norm.register_forward_hook(lambda *_: seen.append(1))  # still called as a module
    analog(batch())
    assert seen == [1]


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Output = checkpoint(self.inner, x, use_reentrant=False)
        return self.head(y.logits)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", FRONT_ENDS)
@pytest.mark.parametrize("target", ["ideal", noisy()])
def test_gradient_checkpointing(kind: type[Traced], target: Any) -> None:
    model = Checkpointed(kind())
    analog = analogize(model, target, example_inputs=batch())
    with pytest.raises(CaptureError, match="node 'checkpoint' is a checkpoint"):
        analogize(model, target, example_inputs=batch(), capture="fx")
    assert summary(analog).converted_share == 1
    x, grads = batch(), []
    plain = copy.deepcopy(analog)
    plain.forward = lambda x: plain.head(plain.inner(x).logits)
    for each in (analog, plain):
        torch.manual_seed(1)
        each(x).square().sum().backward()
        grads.append([p.grad for p in each.parameters()])
    # The recomputation draws the same noise and the same masks.
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", FRONT_ENDS)
@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about what it deprecates
def test_compiles_where_the_original_does(kind: type[Traced]) -> None:
    model, analog = rewritten(kind, noisy())
    analog.eval()
    x = batch()
    torch._dynamo.reset()
    with noise_mode(analog, "off"), torch.no_grad():
        expected = analog(x).logits
        # The weights that Python uses directly are left to Python; the branch breaks a graph too.
        compiled = torch.compile(analog, backend="eager", fullgraph=kind is Traced)
        torch.testing.assert_close(compiled(x).logits, expected)
        assert not torch.allclose(expected, model.eval()(x).logits, rtol=1e-6, atol=1e-6)
    program(analog, 3)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x).logits, analog(x).logits)
    torch._dynamo.reset()


class Decoder(nn.Module):
    """Greedy decoding with a cache of keys and values, and the output tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.qkv = nn.Parameter(torch.randn(24, 8) / 3)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(
        self, ids: Tensor, cache: dict[str, Tensor] | None = None, use_cache: bool = True
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        q, k, v = F.linear(self.embed(ids), self.qkv).chunk(3, -1)
        if cache is not None:
            k, v = (torch.cat([cache[n], new], 1) for n, new in (("k", k), ("v", v)))
        causal = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
        return self.head(self.out(y)), {"k": k, "v": v} if use_cache else None

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int, use_cache: bool) -> Tensor:
        cache, new = None, ids
        for _ in range(count):
            logits, cache = self(new if use_cache else ids, cache, use_cache)
            new = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, new], 1)
        return ids


def test_generation_with_and_without_a_cache() -> None:
    model = Decoder().eval()
    ids = torch.randint(11, (2, 5))
    analog = analogize(model, "ideal", example_inputs=ids)
    assert summary(analog).converted_share == 1
    assert [r.name for r in regions(analog)] == ["qkv", "out", "head"]
    for use_cache in (True, False):
        expected = model.generate(ids, 6, use_cache)
        assert torch.equal(analog.generate(ids, 6, use_cache), expected)
    fuzzy = analogize(model, noisy(), example_inputs=ids).eval()
    program(fuzzy, 0)
    # One chip holds its weights: with and without a cache it says the same.
    assert torch.equal(fuzzy.generate(ids, 6, True), fuzzy.generate(ids, 6, False))
    assert analog.head.weight is analog.embed.weight


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, parts: dict[str, list[Tensor]], *, weight: float = 1.0) -> dict[str, Any]:
        y = self.a(parts["x"][0]) * weight + self.b(parts["x"][1])
        return {"y": y, "more": [y.sum(), (y > 0).sum()]}


def test_nested_inputs_and_outputs() -> None:
    model = Nested().eval()
    parts = {"x": [torch.randn(2, 3), torch.randn(2, 3)]}
    analog = analogize(model, "ideal", example_inputs=(parts,))
    assert summary(analog).converted_share == 1
    other = {"x": [torch.randn(5, 3), torch.randn(5, 3)]}
    torch.testing.assert_close(analog(other), model(other))
    graph = analogize(model, "ideal", example_inputs=(parts,), capture="fx")
    torch.testing.assert_close(graph(other), model(other))
    with pytest.raises(CaptureError, match="'parts' was a dict"):
        graph([other])
