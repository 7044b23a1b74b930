"""Memory that runs out amid a run: the chip is named, and the file keeps what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import Evaluation, analogize, evaluate
from analogize.errors import EvaluationError

DATA = [(torch.linspace(-1, 1, 40).view(10, 4), torch.arange(10) % 3)]


class Greedy(nn.Module):
    """Asks for 2^60 bytes in one forward pass: no machine has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.passes, self.fails_in = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.fails_in:
            torch.empty(2**60, dtype=torch.uint8)
        y: Tensor = self.layer(x)
        return y


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_chip_is_named_and_the_others_are_kept(at_once: int, tmp_path: Path) -> None:
    analog = analogize(Greedy(), "pcm_8bit", DATA)
    told: dict[str, Any] = {"eta": 0.05, "instances": 6, "at_once": at_once, "progress": False}
    whole = evaluate(analog, DATA, **told)
    file = tmp_path / "run.json"
    analog.passes, analog.fails_in = 0, 3
    first = 2 if at_once == 1 else 4
    named = rf"out of memory.*file of resume.*\(chips? {first}.*eta = 0.05"
    with pytest.raises(EvaluationError, match=named):
        evaluate(analog, DATA, resume=file, **told)
    assert Evaluation.load(file).levels[0].values == whole.levels[0].values[:first]
    analog.fails_in = -1
    again = evaluate(
        analog, DATA, eta=0.05, instances=6, at_once=at_once, resume=file, progress=False
    )
    assert again.levels == whole.levels


def test_memory_that_a_metric_or_the_loader_lacks(tmp_path: Path) -> None:
    analog = analogize(nn.Linear(4, 3), "pcm_8bit", DATA)

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.empty(2**60, dtype=torch.uint8).float().mean()

    def batches() -> None:
        raise MemoryError

    class Loader:
        def __iter__(self) -> None:
            batches()

    with pytest.raises(EvaluationError, match=r"out of memory.*\(chip 0, seed"):
        evaluate(analog, DATA, metric, 0.05, 2, progress=False)
    with pytest.raises(EvaluationError, match=r"out of memory.*\(chip 0, seed"):
        evaluate(analog, Loader(), eta=0.05, instances=2, progress=False)
