"""One way to compare a rewritten model with its original: several calls, and all they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from analogize import analogize, noise_mode, summary
from analogize.targets.spec import Target

# A range that no weight leaves, so that the operator's own arithmetic runs and clips nothing.
RANGE = {"kind": "fixed", "min": -16.0, "max": 16.0}
TARGET = Target.model_validate({"name": "t", "weights": {"range": RANGE}})
WIDTH = 6
Named = Callable[[int], dict[str, Any]]


def run(model: Any, rounds: list[tuple[int, bool]], named: Named) -> list[Tensor | None]:
    """Outputs and gradients of several calls."""
    found: list[Tensor | None] = []
    for number, (size, training) in enumerate(rounds):
        torch.manual_seed(number)
        x = torch.randn(size, WIDTH, requires_grad=True)
        model.train(training)
        model.zero_grad()
        y = model(x, **named(number))
        outputs = list(y.values()) if isinstance(y, dict) else [y]
        sum((out * out).sum() for out in outputs).backward()
        found += [*outputs, x.grad, *(p.grad for p in model.parameters())]
    return found


@pytest.fixture
def check_original() -> Callable[..., None]:
    """``check(kind, example)``: a rewritten ``kind()`` does what ``kind()`` does, called likewise.

    In train and eval mode, with other attributes and sizes: outputs, gradients, state, and what its
    Python keeps, which ``does()`` tells. ``named`` gives the arguments by name of a call's number.
    """

    def check(
        kind: Any,
        example: bool,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        named: Named = lambda number: {},
    ) -> None:
        torch.manual_seed(0)
        original = kind().train()
        inputs = torch.randn(4, WIDTH) if example else None
        analog = analogize(original, TARGET, example_inputs=inputs)
        assert isinstance(analog, kind)
        names = [n for n, _ in analog.named_parameters()]
        assert names == [n for n, _ in original.named_parameters()]
        rounds = [(4, True), (3, False), (5, True), (5, True), (2, False)]
        with noise_mode(analog, "off"):
            found = run(analog, rounds, named)
        for mine, theirs in zip(found, run(original, rounds, named), strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)
        state = analog.state_dict()
        for key, value in original.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=rtol, atol=atol)
        assert analog.does() == original.does()
        assert summary(analog).rows

    return check
