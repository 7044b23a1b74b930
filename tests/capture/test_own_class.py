"""The rewritten model is the user's own: its class, its methods, its parts, its own forwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, regions, summary
from analogize.errors import CaptureError
from analogize.targets.spec import Target

WIDTH = 8


def noisy() -> Target:
    weights = {"range": {"kind": "absmax"}, "bits": 8}
    noise = [{"model": "gaussian", "eta": 0.1}]
    return Target.model_validate({"schema": 1, "name": "noisy", "weights": weights, "noise": noise})


def is_analog(call: Callable[[], Tensor]) -> bool:
    """Whether two calls draw different noise."""
    with torch.no_grad():
        return not torch.equal(call(), call())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))  # type: ignore[no-any-return]


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
