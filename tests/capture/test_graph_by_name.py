"""``capture="fx"`` refuses what a graph would freeze, where that can be seen."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, is_grad_enabled, nn, no_grad

from analogize import analogize
from analogize.errors import CaptureError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def island(context: Callable[[], Any]) -> Callable[[Any, Tensor], Tensor]:
    def use(m: Any, x: Tensor) -> Tensor:
        with context():
            y: Tensor = m.first(x)
        return m.second(y.float())  # type: ignore[no-any-return]

    return use


def branch(asked: Callable[[], Any]) -> Callable[[Any, Tensor], Tensor]:
    def use(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.first(x)
        return m.second(y) if asked() else y

    return use


@no_grad()
def decorated(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x))  # type: ignore[no-any-return]


REFUSED = {
    "no_grad": island(torch.no_grad),
    "no_grad by another name": island(no_grad),
    "enable_grad": island(torch.enable_grad),
    "inference_mode": island(torch.inference_mode),
    "autocast": island(lambda: torch.autocast("cpu", torch.bfloat16)),
    "set_grad_enabled": island(lambda: torch.set_grad_enabled(False)),
    "decorator": decorated,
    "is_grad_enabled": branch(torch.is_grad_enabled),
    "is_grad_enabled by another name": branch(is_grad_enabled),
    "is_autocast_enabled": branch(lambda: torch.is_autocast_enabled("cpu")),
    "deterministic": branch(torch.are_deterministic_algorithms_enabled),
    "default dtype": branch(torch.get_default_dtype),
    "inference": branch(torch.is_inference_mode_enabled),
}


class Model(nn.Module):
    def __init__(self, use: Any) -> None:
        super().__init__()
        self.first, self.second, self.use = nn.Linear(4, 4), nn.Linear(4, 4), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", REFUSED)
def test_modes_are_refused(way: str) -> None:
    with pytest.raises(CaptureError, match=r"its Python .* which a graph would hold as it was"):
        analogize(Model(REFUSED[way]), "ideal", example_inputs=X, capture="fx")
    kept = analogize(Model(REFUSED[way]), "ideal", example_inputs=X)
    assert len(list(kept.children())) == 2


SCALE, TABLE = 2.0, {"scale": 2.0}
CLOSED: list[dict[str, float]] = []


class Settings:
    def __init__(self) -> None:
        self.scale, self.unread, self.deep = 2.0, 0, [{"scale": 2.0}]


class Block(nn.Module):
    factor = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv, self.alpha = nn.Linear(4, 4), nn.Conv1d(1, 1, 3, padding=1), 2.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.fc(x).unsqueeze(1)).squeeze(1)
        return y * self.alpha * self.factor


class Reader(nn.Module):
    """Reads values of every place there is."""

    power = 1

    def __init__(self) -> None:
        super().__init__()
        self.block, self.beta, self.settings = Block(), 2.0, Settings()
        self.rows, self.unread, closed = [1.0, 2.0], 0, {"scale": 1.0}
        CLOSED.append(closed)
        self.close = lambda x: x * closed["scale"]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.close(self.block(x)) * self.beta * sum(self.rows)
        y = y * self.settings.scale * self.settings.deep[0]["scale"] * SCALE * TABLE["scale"]
        if getattr(self, "late", None) is not None:
            y = y * self.late  # type: ignore[operator]
        return y**self.power


def put(owner: Any, name: str, value: Any) -> Callable[[Any], None]:
    def change(m: Any) -> None:
        setattr(owner(m), name, value)

    return change


CHANGES: dict[str, Callable[[Any], None]] = {
    "beta": put(lambda m: m, "beta", 3.0),
    "late": put(lambda m: m, "late", 3.0),
    "alpha": put(lambda m: m.block, "alpha", 3.0),
    "padding": put(lambda m: m.block.conv, "padding", (0,)),
    "stride": put(lambda m: m.block.conv, "stride", (2,)),
    "rows": lambda m: m.rows.append(1.0),
    "settings": put(lambda m: m.settings, "scale", 3.0),
    "settings ": lambda m: m.settings.deep[0].update(scale=3.0),
}
GLOBAL: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "closed": lambda patch: patch.setitem(CLOSED[-1], "scale", 3.0),
    "SCALE": lambda patch: patch.setitem(globals(), "SCALE", 3.0),
    "TABLE": lambda patch: patch.setitem(TABLE, "scale", 3.0),
    "factor": lambda patch: patch.setattr(Block, "factor", 3.0),
    "power": lambda patch: patch.setattr(Reader, "power", 2),
}


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_what_a_graph_holds_cannot_be_set_in_silence(what: str, copied: bool) -> None:
    analog = analogize(Reader(), "ideal", example_inputs=X, capture="fx")
    analog = copy.deepcopy(analog) if copied else analog
    analog(X)

    def use() -> None:
        CHANGES[what](analog)
        analog(X)

    with pytest.raises(CaptureError, match=f"{what.strip()}.*capture='hierarchical'"):
        use()
    kept, original = analogize(Reader(), "ideal", example_inputs=X), Reader()
    original.load_state_dict(kept.state_dict())
    if what not in ("padding", "stride"):
        for model in (kept, original):
            CHANGES[what](model)
        torch.testing.assert_close(kept(X), original(X))


@pytest.mark.parametrize("what", GLOBAL)
def test_globals_and_classes_that_a_graph_holds(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    analog = analogize(Reader(), "ideal", example_inputs=X, capture="fx")
    analog(X)

    GLOBAL[what](monkeypatch)

    with pytest.raises(CaptureError, match=what):
        analog(X)


def test_what_a_graph_does_not_hold_may_be_set() -> None:
    analog: Any = analogize(Reader(), "ideal", example_inputs=X, capture="fx")
    before = analog(X)

    analog.unread, analog.settings.unread, analog.beta = 1, 1, 2.0
    analog.block.fc.weight = nn.Parameter(2 * analog.block.fc.weight.detach())
    analog.block.fc.bias = nn.Parameter(2 * analog.block.fc.bias.detach())
    analog.block.conv.bias.data.zero_()

    assert not torch.equal(analog(X), before)
    again = pickle.loads(pickle.dumps(analogize(Block(), "ideal", example_inputs=X, capture="fx")))
    assert again(X).shape == (3, 4)
    again.block = None


def test_what_torch_asks_itself_is_no_reason() -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    plain = Model(lambda m, x: m.second(m.first(x)).relu())
    assert analogize(plain, "ideal", example_inputs=X, capture="fx")(X).shape == (3, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8), nn.Dropout())
    analogize(model.eval(), "ideal", example_inputs=X, capture="fx")


COLLECTED = 0


def test_what_the_garbage_collector_calls_back_is_no_part_of_a_graph() -> None:
    """Test runners and profilers keep counts in globals of their own."""

    def count(phase: str, info: dict[str, int]) -> None:
        global COLLECTED
        COLLECTED += 1

    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)
    threshold = gc.get_threshold()
    gc.callbacks.append(count)
    gc.set_threshold(1)
    try:
        analog = analogize(model, "ideal", example_inputs=x, capture="fx")
        assert gc.isenabled()
        assert COLLECTED > 0
    finally:
        gc.callbacks.remove(count)
        gc.set_threshold(*threshold)
    globals()["COLLECTED"] = -1
    torch.testing.assert_close(analog(x), model(x))
