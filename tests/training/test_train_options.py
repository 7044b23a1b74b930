"""What a training may be asked for: levels of noise, averages, and what is learned from."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import (
    AnalogModule,
    Target,
    TrainingNoise,
    analogize,
    clip_weights,
    distill,
    noise_mode,
    train_robust,
)
from analogize.crossbar.ops import operators
from analogize.errors import TrainingError

# Lightning's own: it compares tree specifications in a way that newer torch deprecates, and points
# out that data in memory could be loaded by workers.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
}


def network(features: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, features), nn.ReLU(), nn.Linear(features, 3))


def batches(count: int = 6, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, 6, generator=g)
    return [(one, one[:, :3].argmax(1)) for one in x]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def inside(model: nn.Module) -> bool:
    return clip_weights(copy.deepcopy(model)) == 0


class TestOptions:
    def test_the_level_rises_over_the_warm_up_and_varies_by_its_std(self) -> None:
        noise = TrainingNoise(eta_warmup=2.0)
        assert [noise.at(0.1, e, lambda: 0.0) for e in (0, 1, 2, 5)] == [0, 0.05, 0.1, 0.1]
        assert TrainingNoise(eta_std=0.02).at(0.1, 0, lambda: 1.5) == pytest.approx(0.13)

    def test_each_step_trains_at_its_own_level(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        levels: list[float] = []
        first = operators(student)[0]
        first.register_forward_pre_hook(lambda op, _: levels.append(op.array.noise[0].eta))
        noise = TrainingNoise(eta=0.2, eta_std=0.05)
        distill(student, teacher, batches(20), epochs=1, noise=noise, **QUIET)
        assert len(set(levels)) == 20
        # The mean of 20 draws deviates by 0.05 / sqrt(20) = 0.011; four of those.
        assert sum(levels) / 20 == pytest.approx(0.2, abs=0.045)
        assert first.array.noise[0].eta == 0.1

    def test_the_average_of_the_weights_is_returned(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        seen: list[list[Tensor]] = []

        class Watch(L.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
                seen.append(weights(module.student))

        distill(student, teacher, batches(3), epochs=1, ema=0.5, callbacks=[Watch()], **QUIET)
        # Lightning's average starts at the first step's weights.
        average = [torch.lerp(torch.lerp(a, b, 0.5), c, 0.5) for a, b, c in zip(*seen, strict=True)]
        for ours, theirs in zip(weights(student), average, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_a_loss_of_the_users_own_needs_no_labels(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        def match(outputs: Tensor, soft: Tensor, labels: object) -> Tensor:
            assert labels is None
            return (outputs - soft).square().mean()

        loader = DataLoader(TensorDataset(torch.randn(16, 6)), 8)
        before = weights(student)
        distill(student, teacher, loader, epochs=1, loss=match, **QUIET)
        assert not same(before, weights(student))

    def test_the_whole_procedure_takes_three_steps(self, target: Target, tmp_path: Path) -> None:
        model = network()
        robust = train_robust(
            model, target, batches(), epochs=(2, 1, 2), folder=tmp_path, chips=0, **QUIET
        )
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "clean.ckpt",
            "clipped.ckpt",
            "noisy.ckpt",
        ]
        assert inside(robust)


class TestObjective:
    """Off by default; each against what it says by hand."""

    def step(
        self, student: AnalogModule, teacher: nn.Module | None, **options: Any
    ) -> AnalogModule:
        """One step of plain SGD on one batch, without noise unless ``options`` say so."""
        found = copy.deepcopy(student)
        settings: dict[str, Any] = {"noise": TrainingNoise(eta=0.0), **QUIET, **options}
        sgd = partial(torch.optim.SGD, lr=0.1)
        return distill(found, teacher, batches(1), epochs=1, optimizer=sgd, **settings)

    def test_without_the_labels_term_none_are_needed(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        labelled = self.step(student, teacher, hard=0.0)
        assert not same(weights(labelled), weights(self.step(student, teacher)))
        unlabelled = copy.deepcopy(student)
        sgd = partial(torch.optim.SGD, lr=0.1)
        data = [x for x, _ in batches(1)]
        off = TrainingNoise(eta=0.0)
        distill(unlabelled, teacher, data, epochs=1, hard=0.0, optimizer=sgd, noise=off, **QUIET)
        assert same(weights(labelled), weights(unlabelled))

    def test_several_draws_are_the_mean_gradient(self, student: AnalogModule) -> None:
        """Without noise every draw is the same, and so is their mean; with noise it is not."""
        one, three = (self.step(student, None, alpha=0.0, draws=n) for n in (1, 3))
        for a, b in zip(weights(one), weights(three), strict=True):
            torch.testing.assert_close(a, b)
        noisy = TrainingNoise(eta=0.3)
        one, three = (self.step(student, None, alpha=0.0, noise=noisy, draws=n) for n in (1, 3))
        assert not same(weights(one), weights(three))

    def test_features_pull_towards_the_teachers_activations(
        self, student: AnalogModule, target: Target
    ) -> None:
        other = analogize(network(), target)
        x, _ = batches(1)[0]

        def distance(model: AnalogModule) -> float:
            outputs: dict[int, list[Tensor]] = {}
            for one in (model, other):
                seen = outputs.setdefault(id(one), [])
                hooks = [
                    op.register_forward_hook(lambda _o, _a, y, s=seen: s.append(y))
                    for op in operators(one)[:1]
                ]
                with torch.no_grad(), noise_mode(one, "off"):
                    one(x)
                for hook in hooks:
                    hook.remove()
            return float((outputs[id(model)][0] - outputs[id(other)][0]).square().mean())

        plain, pulled = (self.step(student, other, features=f) for f in (0.0, 10.0))
        assert distance(pulled) < distance(plain)

    def test_what_leaves_nothing_to_learn_from_is_refused(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        with pytest.raises(TrainingError, match="both 0"):
            self.step(student, None, alpha=0.0, hard=0.0)
        with pytest.raises(TrainingError, match="draws is 0"):
            self.step(student, teacher, draws=0)
        with pytest.raises(TrainingError, match="has none of them"):
            self.step(student, teacher, features=1.0)
        with pytest.raises(TrainingError, match="hard is -1"):
            self.step(student, teacher, hard=-1)

    def test_the_level_can_fall_to_the_one_in_use(self) -> None:
        noise = TrainingNoise(eta=0.05, eta_start=0.2, eta_warmup=4)
        levels = [noise.at(0.05, epochs, lambda: 0.0) for epochs in (0, 2, 4, 9)]
        assert levels == pytest.approx([0.2, 0.125, 0.05, 0.05])
