"""The rewritten model is the user's own: its class, its state, its contexts, its methods."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, census, regions, summary
from analogize.errors import AnalogizeError, CalibrationError, CaptureError
from analogize.targets.spec import Target

WIDTH = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noisy() -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 8}
    noise = [{"model": "gaussian", "eta": 0.1}]
    return Target.model_validate({"schema": 1, "name": "noisy", "weights": weights, "noise": noise})


def is_analog(call: Callable[[], Tensor]) -> bool:
    """Whether two calls draw different noise."""
    with torch.no_grad():
        return not torch.equal(call(), call())


class Model(nn.Module):
    """Two layers, a matrix that Python uses directly, and whatever a test hangs onto it."""

    def __init__(self, direct: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3) if direct else None
        self.alpha: Any = 0.0

    def head(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x)
        return y if self.w is None else y @ self.w

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x))


def both(model: nn.Module, **options: Any) -> tuple[nn.Module, Any]:
    analog = analogize(model, "ideal", example_inputs=torch.randn(4, WIDTH), **options)
    assert summary(analog).converted_share == 1
    return model, analog


DIRECT = pytest.mark.parametrize("direct", [False, True])


class Mixing(Model):
    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.alpha) * self.a(x) + self.alpha * self.head(x)


@DIRECT
@pytest.mark.parametrize("wrapped", [False, True])
def test_attributes_that_change_later(direct: bool, wrapped: bool) -> None:
    inner = Mixing(direct)
    model, analog = both(nn.Sequential(inner) if wrapped else inner)
    x = torch.randn(4, WIDTH)
    for value in (1.0, 0.25, torch.tensor(0.5)):
        for each in (model, analog):
            (each[0] if wrapped else each).alpha = value
        torch.testing.assert_close(analog(x), model(x))


@torch.no_grad()
def decorated(self: Model, x: Tensor) -> Tensor:
    return self.head(self.a(x))


def island_without_gradients(self: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.a(x)
    return self.head(y)


def island_with_gradients(self: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = self.a(x)
        with torch.enable_grad():
            return self.head(y)


def island_of_inference(self: Model, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = self.a(x)
    return self.head(y.clone())


def island_without_autocast(self: Model, x: Tensor) -> Tensor:
    y = self.a(x)
    with torch.autocast("cpu", enabled=False):
        return self.head(y.float())


def island_with_autocast(self: Model, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.a(x)
    return self.head(y.float())


def branch_on_gradients(self: Model, x: Tensor) -> Tensor:
    return self.head(self.a(x)) if torch.is_grad_enabled() else self.a(x)


def branch_on_autocast(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.is_autocast_enabled("cpu") else self.head(self.a(x))


def branch_on_determinism(self: Model, x: Tensor) -> Tensor:
    sure = torch.are_deterministic_algorithms_enabled()
    return self.a(x) if sure else self.head(self.a(x))


def branch_on_the_default_dtype(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.get_default_dtype() == torch.float64 else self.head(self.a(x))


def branch_on_scripting(self: Model, x: Tensor) -> Tensor:
    return self.a(x) if torch.jit.is_scripting() else self.head(self.a(x))


CONTEXTS = [
    decorated,
    island_without_gradients,
    island_with_gradients,
    island_of_inference,
    island_without_autocast,
    island_with_autocast,
    branch_on_gradients,
    branch_on_autocast,
    branch_on_determinism,
    branch_on_the_default_dtype,
    branch_on_scripting,
]


def made(forward: Callable[..., Any], direct: bool) -> Model:
    kind = type("Made", (Model,), {"forward": forward})
    model: Model = kind(direct)
    return model


@DIRECT
@pytest.mark.parametrize("forward", CONTEXTS)
def test_contexts_and_global_modes(forward: Any, direct: bool) -> None:
    model, analog = both(made(forward, direct))
    x = torch.randn(4, WIDTH)

    def outcome(each: nn.Module) -> list[Any]:
        each.zero_grad()
        y = each(x)
        if y.requires_grad:
            y.float().sum().backward()
        reached = [n for n, p in each.named_parameters() if p.grad is not None]
        found = [y.detach(), y.requires_grad, reached]
        with torch.no_grad():
            found.append(each(x).detach())
        with torch.autocast("cpu", torch.bfloat16):
            found.append(each(x).detach())
        try:
            torch.use_deterministic_algorithms(True)
            torch.set_default_dtype(torch.float64)
            found.append(each(x).detach())
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
        return found

    for actual, expected in zip(outcome(analog), outcome(model), strict=True):
        if isinstance(expected, Tensor):
            assert actual.dtype == expected.dtype
            torch.testing.assert_close(actual, expected)
        else:
            assert actual == expected


@dataclass
class Meter:
    seen: int = 0
    last: list[Any] = field(default_factory=list)

    def update(self, y: Tensor) -> None:
        self.seen += 1
        self.last.append(y.detach())


TOTAL = {"calls": 0}


class Remembering(Model):
    """Every place in which Python can keep something between calls."""

    def __init__(self, seed: int = 0, direct: bool = False) -> None:
        super().__init__(direct)
        self.log: dict[str, Any] = {"deep": {"acts": [], "queue": deque(maxlen=3)}}
        self.meter, self.shapes = Meter(), set[tuple[int, ...]]()
        self.count, self.python = 0, random.Random(seed)
        self.numpy, self.torch = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self.means = np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.a(x))
        self.log["deep"]["acts"].append(y.detach())
        self.log["deep"]["queue"].append(float(y.detach().sum()))
        self.meter.update(y)
        self.shapes.add(tuple(x.shape))
        self.count += 1
        self.means += 1
        TOTAL["calls"] += 1
        with torch.no_grad():
            self.a.weight.clamp_(-0.2, 0.2)
        self.b.weight.data.copy_(self.b.weight.data.clamp(-0.2, 0.2))
        if self.python.random() < 0.5 or self.numpy.random() < 0.3:
            return x
        return y * torch.rand(1, generator=self.torch)

    def state(self) -> Any:
        acts = len(self.log["deep"]["acts"]), len(self.log["deep"]["queue"])
        return acts, self.meter.seen, self.shapes, self.count, self.means.tolist()


@DIRECT
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("inplace", [False, True])
def test_state_is_kept_in_every_call_and_rewriting_leaves_it(
    seed: int, direct: bool, inplace: bool
) -> None:
    model, twin = Remembering(seed, direct), Remembering(seed, direct)
    twin.load_state_dict(model.state_dict())
    weight = model.a.weight.detach().clone()
    _, analog = both(model, inplace=inplace)
    assert analog.state() == ((0, 0), 0, set(), 0, [0, 0])
    assert torch.equal(analog.a.weight, weight)
    calls = TOTAL["calls"]
    for _ in range(12):
        x = torch.randn(3, WIDTH)
        torch.testing.assert_close(analog(x), twin(x))
    assert TOTAL["calls"] == calls + 24
    assert analog.state() == twin.state()
    assert {type(v) for v in analog.log["deep"]["acts"]} == {Tensor}
    if not inplace:
        assert model.state() == ((0, 0), 0, set(), 0, [0, 0])
        assert torch.equal(model.a.weight, weight)


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_refuses_state_at_any_depth_and_leaves_no_proxy(seed: int) -> None:
    model = Remembering(seed)
    with pytest.raises(CaptureError):
        analogize(model, "ideal", example_inputs=torch.randn(4, WIDTH), capture="fx")
    assert model.state() == ((0, 0), 0, set(), 0, [0, 0])


class Owned(nn.Module):
    """A class with methods, a property, a train() and a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.step = 7

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def train(self, mode: bool = True) -> Owned:
        super().train(mode)
        self.norm.eval()
        return self

    def predict(self, x: Tensor) -> Tensor:
        return self(x).argmax(1)  # type: ignore[no-any-return]

    @property
    def channels(self) -> int:
        return self.conv.out_channels

    def get_extra_state(self) -> Any:
        return {"step": self.step}

    def set_extra_state(self, state: Any) -> None:
        self.step = state["step"]


def test_the_class_and_what_its_author_wrote() -> None:
    model, x = Owned(), torch.randn(4, 3, 6, 6)
    analog = analogize(model, "ideal", example_inputs=x).train()
    assert isinstance(analog, Owned)
    assert not analog.norm.training
    assert analog.channels == 4
    assert torch.equal(analog.predict(x), model.train().predict(x))
    analog.step = 9
    model.load_state_dict({k: v for k, v in analog.state_dict().items() if "analog" not in k})
    assert model.step == 9


class Uses(nn.Module):
    """Methods that use weights directly, beside forward and in it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)
        self.block = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.fc = nn.Linear(WIDTH, WIDTH)

    def encode(self, x: Tensor) -> Tensor:
        return x @ self.w

    def forward(self, x: Tensor) -> Tensor:
        y = self.encode(x)
        y = y + self.block(y, y, y, need_weights=False)[0]
        return self.fc(y)  # type: ignore[no-any-return]


def test_a_part_or_a_method_alone_is_as_analog_as_in_the_whole() -> None:
    x = torch.randn(2, 3, WIDTH)
    analog: Any = analogize(Uses(), noisy(), example_inputs=x).eval()
    assert summary(analog).converted_share == 1
    assert is_analog(lambda: analog(x))
    assert is_analog(lambda: analog.encode(x))
    assert is_analog(lambda: analog.block(x, x, x)[0])
    assert is_analog(lambda: analog.fc(x))
    assert is_analog(lambda: analog.block.out_proj(x))


@pytest.mark.parametrize("example", [None, torch.randn(2, 1, 8)])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_convolution_is_not_deaf_to_its_attributes(kind: Any, example: Any) -> None:
    """Backbones are often given another stride; an array has one."""
    model = nn.Sequential(kind(1, 2, 3))
    analog: Any = analogize(model, "ideal", example_inputs=example)

    for name in ("stride", "dilation", "padding"):
        with pytest.raises(CaptureError, match=f"'{name}' of this {kind.__name__}"):
            setattr(analog[0], name, (2,))
    analog[0].stride, analog[0].note = (1,), "free"
    analog[0].weight = nn.Parameter(torch.zeros(analog[0].weight.shape))
    assert float(analog(torch.ones(2, 1, 8)).detach().std(-1).max()) < 1e-6


def test_a_replaced_head_is_the_new_one() -> None:
    x = torch.randn(2, 3, WIDTH)
    model, head = Uses().eval(), nn.Linear(WIDTH, 2)
    analog: Any = analogize(model, noisy(), example_inputs=x).eval()
    model.fc = analog.fc = head
    assert "fc" not in [r.name for r in regions(analog)]
    with torch.no_grad():
        assert analog(x).shape == model(x).shape
    analog.block = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    digital = analog.block
    with torch.no_grad():
        expected = F.linear(x, digital.in_proj_weight, digital.in_proj_bias)
        assert torch.equal(F.linear(x, digital.in_proj_weight, digital.in_proj_bias), expected)
        assert not is_analog(lambda: digital(x, x, x)[0])


def replaced_by_lambda(module: Any) -> None:
    old = module.forward
    module.forward = lambda x: 3 * old(x)


def replaced_by_default(module: Any) -> None:
    module.forward = lambda x, old=module.forward: 3 * old(x)


def replaced_by_partial(module: Any) -> None:
    module.forward = partial(lambda self, x: 3 * type(self).forward(self, x), module)


def replaced_by_method(module: Any) -> None:
    module.forward = MethodType(lambda self, x: 3 * type(self).forward(self, x), module)


def replaced_by_compiled(module: Any) -> None:
    module.forward = torch.compile(module.forward, backend="eager")


REPLACED = [
    replaced_by_lambda,
    replaced_by_default,
    replaced_by_partial,
    replaced_by_method,
    replaced_by_compiled,
]


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about what it deprecates
@pytest.mark.parametrize("replace", REPLACED)
@pytest.mark.parametrize("part", ["", "a"])
@pytest.mark.parametrize("example", [False, True])
def test_a_forward_of_the_instances_own(replace: Any, part: str, example: bool) -> None:
    model = Model().eval()
    replace(model.get_submodule(part))
    x = torch.randn(4, WIDTH)
    given = {"example_inputs": x} if example else {}
    analog = analogize(model, "ideal", **given).eval()
    torch.testing.assert_close(analog(x), model(x))
    fuzzy: Any = analogize(model, noisy(), **given).eval()
    assert {r.name for r in regions(fuzzy)} | {d.name for d in summary(fuzzy).digital} == {"a", "b"}
    if not summary(fuzzy).digital:
        # With the weights of the copy, not of the original.
        with torch.no_grad():
            fuzzy.b.weight.zero_(), fuzzy.b.bias.zero_()
            fuzzy.a.weight.mul_(2)
    assert is_analog(lambda: model.b(fuzzy.a(x))) == (not summary(fuzzy).digital)
    with torch.no_grad():
        assert not torch.allclose(fuzzy.a(x), model.a(x)) or bool(summary(fuzzy).digital)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_unwrapped() -> None:
    model, x = Model().eval(), torch.randn(4, WIDTH)
    for compiled in (torch.compile(model, backend="eager"), nn.Sequential(torch.compile(model))):
        analog = analogize(compiled, "ideal", example_inputs=x)
        assert len(regions(analog)) == 2
        torch.testing.assert_close(analog(x), model(x))


def test_what_cannot_be_copied_is_named_with_the_way_out(tmp_path: Path) -> None:
    x = torch.randn(4, WIDTH)
    with (tmp_path / "log").open("w") as file:
        for value in (threading.Lock(), file, (i for i in range(3))):
            model = nn.Sequential(Model())
            model[0].held = value  # type: ignore[assignment]
            with pytest.raises(CaptureError, match=r"'0.held', a .*inplace=True"):
                analogize(model, "ideal", example_inputs=x)
            analog = analogize(model, "ideal", example_inputs=x, inplace=True)
            assert analog[0].held is value  # type: ignore[index]


@pytest.mark.parametrize("capture", ["auto", "hierarchical", "intercept", "fx"])
def test_inplace_is_all_or_nothing(capture: Any) -> None:
    model, x = Model(direct=True), torch.randn(4, WIDTH)
    keys, kinds, expected = list(model.state_dict()), [type(m) for m in model.modules()], model(x)
    broken = [(torch.full((4, WIDTH), torch.nan),)]
    options: dict[str, Any] = {"inplace": True, "capture": capture}
    with pytest.raises((CalibrationError, CaptureError)):
        analogize(model, "pcm_8bit", broken, **options)
    with pytest.raises(AnalogizeError):
        analogize(model, "pcm_8bit", [(x,)], digital=["nothing"], **options)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == kinds
    assert not hasattr(model, "report")
    assert torch.equal(model(x), expected)
    assert len(regions(analogize(model, "pcm_8bit", [(x,)], inplace=True))) == 3


class Once:
    """An iterable that hands out one and the same iterator, or views of it."""

    def __init__(self, batches: list[Any], view: bool) -> None:
        self.batches, self.view = iter(batches), view

    def __iter__(self) -> Any:
        return (b for b in self.batches) if self.view else self.batches


def test_one_shot_iterables_lose_no_batch() -> None:
    batches = [torch.randn(8, WIDTH) * (8 - i) for i in range(8)]
    model = nn.Sequential(nn.Linear(WIDTH, 2))
    found = [
        analogize(model, "pcm_8bit", data).get_buffer("0.analog.dac.range").tolist()
        for data in (batches, iter(batches), Once(batches, False), Once(batches, True))
    ]
    assert found.count(found[0]) == 4


def test_many_threads_get_what_one_gets() -> None:
    xs = [torch.randn(2, 3, WIDTH) for _ in range(24)]
    analog = analogize(Uses(), "ideal", example_inputs=xs[0]).eval()
    expected = [analog(x) for x in xs]
    results: list[list[Tensor]] = [[] for _ in range(4)]

    def work(own: list[Tensor]) -> None:
        with torch.no_grad():
            own += [analog(x) for x in xs]

    threads = [threading.Thread(target=work, args=(own,)) for own in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in results:
        torch.testing.assert_close(own, expected)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_that_no_array_holds_stay_digital_with_their_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.complex = nn.Linear(WIDTH, 4, dtype=torch.complex64)
            self.empty, self.real = nn.Linear(WIDTH, 0), nn.Linear(WIDTH, WIDTH)
            self.sparse = nn.Parameter((torch.rand(WIDTH, WIDTH) > 0.5).float().to_sparse())
            self.register_buffer("graph", (torch.rand(WIDTH, WIDTH) > 0.5).float().to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sparse.mm(self.graph, torch.sparse.mm(self.sparse, x))
            x = torch.cat([x, self.empty(x)], 1)
            y: Tensor = torch.view_as_real(self.complex(self.real(x).to(torch.complex64)))
            return y

    model, x = Odd(), torch.randn(WIDTH, WIDTH)
    analog = analogize(model, "paper_resnet32", example_inputs=x)
    reasons = {d.name: d.reason for d in summary(analog).digital}
    assert "complex64" in reasons["complex"]
    assert "no element" in reasons["empty"]
    assert [r.name for r in regions(analog)] == ["real"]


def test_a_layer_that_has_something_called_analog() -> None:
    model, x = nn.Sequential(nn.Linear(WIDTH, 4)), torch.randn(4, WIDTH)
    model[0].analog = True  # type: ignore[assignment]
    analog: Any = analogize(model, noisy(), example_inputs=x)
    assert analog[0].analog is True
    assert is_analog(lambda: analog(x))


def test_the_census_leaves_everything_as_it_was() -> None:
    model = Remembering(1)
    before, weight = model.python.getstate(), model.a.weight.detach().clone()
    census(model, torch.randn(4, WIDTH))
    assert model.state() == ((0, 0), 0, set(), 0, [0, 0])
    assert model.python.getstate() == before
    assert torch.equal(model.a.weight, weight)
