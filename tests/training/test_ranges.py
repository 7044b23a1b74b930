from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import Target, TrainingNoise, analogize, choose_range, distill, train_robust
from analogize.crossbar.ops import operators
from analogize.errors import TrainingError
from analogize.training.shrinking import ShrinkingRanges

# Lightning's own: it compares tree specifications in a way that newer torch deprecates, and points
# out that data in memory could be loaded by workers.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(count, 64, 6, generator=torch.Generator().manual_seed(1))
    return [(one, one[:, :3].argmax(1)) for one in x]


@pytest.fixture
def target(make_target: Callable[..., Target]) -> Target:
    noise = [{"model": "gaussian", "eta": 0.2}]
    return make_target(weights={"range": {"kind": "std", "multiple": 2}}, noise=noise)


@pytest.fixture
def clean() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    adam = [torch.optim.Adam(model.parameters(), 0.02)]
    for x, y in batches() * 30:
        nn.functional.cross_entropy(model(x), y).backward()
        adam[0].step()
        adam[0].zero_grad()
    return model.eval()


def test_the_best_range_on_chips_is_chosen(clean: nn.Module, target: Target) -> None:
    before = {k: v.clone() for k, v in clean.state_dict().items()}
    found = choose_range(clean, batches(), (3, 1, 20), 0.1, target=target, instances=4)
    assert [trial.multiple for trial in found.trials] == [1, 3, 20]
    # At 20 deviations, noise of 0.1 of the width is 4 times the weights.
    assert found.trials[2].noisy < found.best.noisy
    assert found.best.multiple != 20
    assert found.target.weights.range.multiple == found.best.multiple  # type: ignore[union-attr]
    assert all(torch.equal(v, before[k]) for k, v in clean.state_dict().items())
    assert str(found).count("*") == 1


def test_trials_are_trained_alike(clean: nn.Module, target: Target) -> None:
    options: dict[str, Any] = {"target": target, "instances": 3, **QUIET}
    raw = choose_range(clean, batches(), (0.5, 1.5), 0.05, **options)
    trained = choose_range(
        clean, batches(), (0.5, 1.5), 0.05, train=batches(8), epochs=6, **options
    )
    # Half a deviation clips most weights, and training heals it.
    assert trained.trials[0].clean > raw.trials[0].clean
    options["train"] = None
    channels = choose_range(clean, batches(), (1.5,), 0.05, granularity="channel", **options)
    assert channels.target.weights.granularity == "channel"


@pytest.mark.parametrize("multiples", [(), (0.0,), (1, 1)])
def test_ranges_that_are_none_are_refused(
    clean: nn.Module, target: Target, multiples: tuple[float, ...]
) -> None:
    with pytest.raises(TrainingError, match="multiples are"):
        choose_range(clean, batches(), multiples, 0.1, target=target)


def test_ranges_narrow_step_by_step_to_their_own(clean: nn.Module, target: Target) -> None:
    student = analogize(clean, target)
    final = [op.array.range.clone() for op in operators(student)]
    widths: list[float] = []

    class Watch(ShrinkingRanges):
        def on_train_batch_end(self, *_args: Any, **_kwargs: Any) -> None:
            op = operators(student)[0]
            widths.append(float(op.array.range[1] / final[0][1]))
            # Weights are confined to the range of their step.
            assert float(op.stored.value().detach().abs().max()) <= float(op.array.range[1])

    data, off = batches(4), TrainingNoise(eta=0.0)
    distill(
        student, None, data, epochs=2, alpha=0, noise=off, callbacks=[Watch(student, 3.0)], **QUIET
    )
    assert widths == pytest.approx([3 - 2 * step / 8 for step in range(8)])
    for op, ends in zip(operators(student), final, strict=True):
        assert torch.equal(op.array.range, ends)
        assert float(op.stored.value().detach().abs().max()) <= float(ends[1])


def test_train_robust_can_shrink(clean: nn.Module, target: Target) -> None:
    options: dict[str, Any] = {"epochs": (0, 1, 1), **QUIET}
    found = train_robust(clean, target, batches(), shrink_from=2.0, **options)
    expected = [op.array.range for op in operators(analogize(clean, target))]
    assert all(map(torch.equal, (op.array.range for op in operators(found)), expected))
    with pytest.raises(TrainingError, match="shrink_from is"):
        train_robust(clean, target, batches(), shrink_from=0.5, **options)
