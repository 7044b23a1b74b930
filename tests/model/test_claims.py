"""What an accelerator is still computing is looked at once, at the end of the pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, one_pass
from analogize.model.one_pass import running_pass


class Claiming(nn.Module):
    """Claims something at every call, which a test may make untrue or follow with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.truths: list[bool] = []
        self.error: Exception | None = None

    def forward(self, x: Tensor) -> Tensor:
        this = running_pass()
        for number, truth in enumerate(self.truths):
            assert this is not None
            this.claims.append((torch.tensor(truth), lambda n=number: ValueError(f"claim {n}")))
        if self.error is not None:
            raise self.error
        y: Tensor = self.layer(x)
        return y


@pytest.fixture
def model() -> nn.Module:
    return analogize(Claiming(), "ideal", example_inputs=torch.randn(2, 3)).eval()


@torch.no_grad()
def test_the_first_untrue_one_raises_when_the_call_ends(model: nn.Module) -> None:
    x = torch.randn(2, 3)
    expected = model(x)
    model.truths = [True, True]  # type: ignore[assignment]
    assert torch.equal(model(x), expected)
    model.truths = [True, False, False]  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(ValueError, match="claim 1"):
            model(x)
    model.truths = []  # type: ignore[assignment]
    # Nothing is left of what failed.
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_a_block_of_calls_is_looked_at_as_a_whole(model: nn.Module) -> None:
    x, outputs = torch.randn(2, 3), []
    model.truths = [False]  # type: ignore[assignment]

    def block() -> None:
        with one_pass(model):
            outputs.extend([model(x), model(x)])

    with pytest.raises(ValueError, match="claim 0"):
        block()
    assert len(outputs) == 2


@torch.no_grad()
def test_an_error_within_comes_first(model: nn.Module) -> None:
    model.truths, model.error = [False], KeyError("own")  # type: ignore[assignment]
    with pytest.raises(KeyError, match="own"):
        model(torch.randn(2, 3))
