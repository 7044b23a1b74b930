"""A model's first call is followed, operator by operator; later ones are, where it reads values.

What the compiler itself reads of activations is not the model's doing, and costs later calls
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from analogize import (
    AnalogModule,
    Recalibration,
    adapt,
    analogize,
    distill,
    evaluate,
    program,
    recalibrate,
)


class Network(nn.Module):
    """Has Python of its own, which may or may not read a value of its activations."""

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8 * 36, 4)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        if self.reads and x.sum() > 1e9:
            x = x / 2
        y: Tensor = self.fc(x.flatten(1))
        return y


def rewritten(reads: bool = False) -> AnalogModule:
    torch.manual_seed(0)
    return analogize(Network(reads).eval(), "paper_resnet32", example_inputs=IMAGES)


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELLED = [(IMAGES, torch.arange(16) % 4)]


def is_followed(model: nn.Module) -> bool:
    """Whether a call is, of a kind that was called before."""
    seen: list[bool] = []
    (norm,) = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model(IMAGES)
        hook = norm.register_forward_hook(
            lambda *_: seen.append(bool(_get_current_dispatch_mode_stack()))
        )
        model(IMAGES)
    hook.remove()
    return seen == [True]


@pytest.mark.parametrize(
    "procedure",
    [
        lambda m: recalibrate(m, [IMAGES]),
        lambda m: recalibrate(m, [IMAGES], m),
        lambda m: recalibrate(m, [IMAGES], shrink=False),
        lambda m: adapt(m, [IMAGES], m, steps=1, rank=1),
        lambda m: evaluate(m, LABELLED, instances=2, recalibration=[IMAGES], progress=False),
        lambda m: evaluate(
            m, LABELLED, instances=2, recalibration=Recalibration([IMAGES], m), progress=False
        ),
        lambda m: distill(m, rewritten(), LABELLED, epochs=1, features=1.0, chips=0).eval(),
    ],
    ids=[
        "recalibrate",
        "match",
        "not shrunk",
        "adapt",
        "evaluate recalibrated",
        "evaluate matched",
        "distill features",
    ],
)
def test_what_the_compiler_reads_has_no_later_call_followed(
    procedure: Callable[[AnalogModule], object],
) -> None:
    model = rewritten()
    program(model, 0)
    procedure(model)
    assert not is_followed(model)


def test_a_model_that_reads_values_is_followed_in_every_call() -> None:
    model = rewritten(reads=True)
    recalibrate(model, [IMAGES])
    assert is_followed(model)
