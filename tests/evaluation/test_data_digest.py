"""Other data are noticed before anything of a run is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import analogize, evaluate
from analogize.errors import EvaluationError
from analogize.evaluation.data_digest import data_digest


def samples(seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 4


def as_list(seed: int, count: int = 12) -> Any:
    x, y = samples(seed, count)
    return list(zip(x.split(4), y.split(4), strict=True))


def as_loader(seed: int, count: int = 12) -> Any:
    return DataLoader(TensorDataset(*samples(seed, count)), batch_size=4, shuffle=True)


@pytest.mark.parametrize("make", [as_list, as_loader])
def test_a_finished_run_is_not_reported_for_other_data(make: Any, tmp_path: Path) -> None:
    analog = analogize(nn.Linear(6, 4), "paper_resnet32")
    file = tmp_path / "run.json"
    settings: dict[str, Any] = {"instances": 3, "resume": file, "progress": False}
    first = evaluate(analog, make(0), **settings)
    assert evaluate(analog, make(0), **settings) == first
    for other in (make(1), make(0, 16)):
        with pytest.raises(EvaluationError, match=r"other data|12 samples before and 16 now"):
            evaluate(analog, other, **settings)


def test_the_order_of_a_loader_and_torchs_random_state_do_not_matter() -> None:
    before = torch.get_rng_state()
    assert data_digest(as_loader(0)) == data_digest(as_loader(0))
    assert data_digest(as_loader(0)) != data_digest(as_loader(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_drawn_anew_tell_nothing_but_their_number() -> None:
    class Noisy(TensorDataset):
        count = 0

        def __getitem__(self, index: Any) -> Any:
            self.count += 1
            return self.count, index

    loader = DataLoader(Noisy(*samples(0)), batch_size=4)
    assert data_digest(loader) == "12 samples"
    assert data_digest(batch for batch in as_list(0)) == ""
