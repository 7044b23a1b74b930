"""``capture="fx"`` refuses what a graph would freeze, where that can be seen."""

from __future__ import annotations

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


def test_what_torch_asks_itself_is_no_reason() -> None:
    model = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    plain = Model(lambda m, x: m.second(m.first(x)).relu())
    assert analogize(plain, "ideal", example_inputs=X, capture="fx")(X).shape == (3, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8), nn.Dropout())
    analogize(model.eval(), "ideal", example_inputs=X, capture="fx")
