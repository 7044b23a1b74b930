from __future__ import annotations

import copy
from collections.abc import Callable
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
    Distillation,
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


@pytest.fixture
def target(make_target: Callable[..., Target]) -> Target:
    return make_target(
        weights={"range": {"kind": "std", "multiple": 2}},
        noise=[{"model": "gaussian", "eta": 0.1}],
    )


@pytest.fixture
def teacher() -> nn.Sequential:
    return network()


@pytest.fixture
def student(teacher: nn.Module, target: Target) -> AnalogModule:
    return analogize(teacher, target)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestStep:
    def test_it_learns_in_place_and_leaves_the_teacher(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        distill(teacher, None, batches(), alpha=0, epochs=60, **QUIET)
        kept = weights(teacher)
        student.load_state_dict(teacher.state_dict(), strict=False)
        student.eval()
        assert distill(student, teacher.train(), batches(), epochs=5, **QUIET) is student
        assert same(kept, weights(teacher))
        assert not same(kept, weights(student))
        assert teacher.training
        assert not student.training
        x, y = batches()[0]
        assert (teacher(x).argmax(1) == y).float().mean() > 0.8

    def test_one_step_is_the_loss_of_equation_10_by_plain_sgd(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        from analogize import distillation_loss, noise_mode

        (x, y), rest = batches(1)[0], TrainingNoise(eta=0.0)
        by_hand = copy.deepcopy(student)
        clip_weights(by_hand)
        with noise_mode(by_hand, "off"):
            distillation_loss(by_hand(x), teacher(x), y, 0.7, 3.0).backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p.sub_(0.1 * p.grad)
        clip_weights(by_hand)
        distill(
            student,
            teacher,
            [(x, y)],
            epochs=1,
            alpha=0.7,
            temperature=3.0,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            noise=rest,
            **QUIET,
        )
        for ours, theirs in zip(weights(student), weights(by_hand), strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_a_teacher_of_another_architecture_teaches(self, student: AnalogModule) -> None:
        distill(student, network(32), batches(), epochs=1, **QUIET)

    def test_an_analog_teacher_is_heard_without_its_noise(
        self, student: AnalogModule, teacher: nn.Module, target: Target
    ) -> None:
        heard: list[Any] = []

        def loss(outputs: Any, soft: Any, labels: Any) -> Tensor:
            heard.append(soft)
            return outputs.square().mean()

        analog = analogize(teacher, target)
        distill(student, analog, [batches()[0]] * 2, epochs=1, loss=loss, **QUIET)
        assert torch.equal(heard[0], heard[1])
        assert not heard[0].requires_grad


class TestProjection:
    @pytest.mark.parametrize(
        "optimizer",
        [
            partial(torch.optim.SGD, lr=3.0, momentum=0.9),
            partial(torch.optim.AdamW, lr=0.5),
            partial(torch.optim.LBFGS, lr=1.0, max_iter=3),
        ],
    )
    def test_every_weight_stays_inside_its_range_after_every_step(
        self, student: AnalogModule, teacher: nn.Module, optimizer: Any
    ) -> None:
        steps: list[bool] = []

        class Inside(L.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
                steps.append(inside(module.student))

        distill(
            student,
            teacher,
            batches(),
            epochs=2,
            optimizer=optimizer,
            callbacks=[Inside()],
            **QUIET,
        )
        assert len(steps) == 12
        assert all(steps)
        assert any(bool((p == lim).any()) for p, lim in on_edges(student)), "nothing was clipped"

    def test_it_holds_with_accumulated_gradients_in_a_trainer_of_the_users_own(
        self, student: AnalogModule, teacher: nn.Module
    ) -> None:
        module = Distillation(student, teacher, optimizer=partial(torch.optim.SGD, lr=5.0), chips=2)
        trainer = L.Trainer(
            max_epochs=1,
            accumulate_grad_batches=4,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            **QUIET,
        )
        trainer.fit(module, DataLoader(batches(), None), DataLoader(batches(2), None))
        assert inside(student)
        assert {"train_loss", "val_loss", "val_accuracy", "val_accuracy_chips"} <= set(
            trainer.callback_metrics
        )


def inside(model: nn.Module) -> bool:
    return clip_weights(copy.deepcopy(model)) == 0


def on_edges(model: nn.Module) -> list[tuple[Tensor, float]]:
    from analogize.crossbar.chip import weight_of

    return [(weight_of(op), op.array.limits[1]) for op in operators(model)]  # type: ignore[index]


class TestCheckpoint:
    def test_one_of_another_target_is_refused(
        self, student: AnalogModule, teacher: nn.Module, tmp_path: Path
    ) -> None:
        file = tmp_path / "run.ckpt"
        distill(student, teacher, batches(), epochs=1, resume=file, **QUIET)
        other = analogize(teacher, "paper_resnet32")
        with pytest.raises(TrainingError, match="target 'test' instead of 'paper_resnet32'"):
            distill(other, teacher, batches(), epochs=1, resume=file, **QUIET)
        with pytest.raises(TrainingError, match=r"alpha 1.0 instead of 0.5"):
            distill(student, teacher, batches(), epochs=1, alpha=0.5, resume=file, **QUIET)

    def test_a_finished_run_is_loaded_and_not_repeated(
        self, student: AnalogModule, teacher: nn.Module, tmp_path: Path
    ) -> None:
        again = copy.deepcopy(student)
        for one in (student, again):
            distill(one, teacher, batches(), epochs=2, resume=tmp_path / "run.ckpt", **QUIET)
        assert same(weights(student), weights(again))

    def test_nothing_is_written_unless_asked(
        self,
        student: AnalogModule,
        teacher: nn.Module,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        distill(student, teacher, batches(), batches(1), epochs=1, **QUIET)
        assert list(tmp_path.iterdir()) == []


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


class TestBadInput:
    def test_a_loss_that_is_not_finite_names_step_and_layer(
        self, student: AnalogModule, teacher: nn.Module, tmp_path: Path
    ) -> None:
        data = batches(6)
        file = tmp_path / "run.ckpt"
        distill(student, teacher, data, epochs=1, resume=file, **QUIET)
        kept = file.read_bytes()

        class Break(L.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
                if trainer.global_step == 8:
                    with torch.no_grad():
                        next(iter(module.student.parameters()))[0, 0] = torch.nan

        with pytest.raises(TrainingError) as raised:
            distill(student, teacher, data, epochs=2, resume=file, callbacks=[Break()], **QUIET)
        message = str(raised.value)
        assert "step 8 (epoch 1, batch 2)" in message
        assert "layer '0', whose '0.weight' holds NaN" in message
        assert file.read_bytes() == kept

    def test_nan_inputs_are_named(self, student: AnalogModule, teacher: nn.Module) -> None:
        data = [(torch.full((4, 6), torch.nan), torch.zeros(4, dtype=torch.int64))]
        with pytest.raises(TrainingError, match=r"step 0 .* inputs hold NaN"):
            distill(student, teacher, data, epochs=1, **QUIET)

    def test_batches_without_labels(self, student: AnalogModule, teacher: nn.Module) -> None:
        with pytest.raises(TrainingError, match="no labels"):
            distill(student, teacher, [torch.randn(4, 6)], epochs=1, **QUIET)

    def test_models_that_do_not_fit(self, student: AnalogModule, teacher: nn.Module) -> None:
        with pytest.raises(TrainingError, match=r"\(16, 3\).*\(16, 8\)"):
            distill(student, teacher[:1], batches(), epochs=1, **QUIET)
        with pytest.raises(TrainingError, match="share the parameter"):
            distill(student, student, batches(), epochs=1, **QUIET)
        with pytest.raises(TrainingError, match="pass a teacher"):
            distill(student, None, batches(), epochs=1, **QUIET)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"epochs": 0}, "epochs is 0"),
            ({"ema": 1.0}, r"ema is 1.0"),
            ({"train": []}, "train holds no batch"),
            ({"train": iter([1])}, "without a length"),
        ],
    )
    def test_arguments(
        self,
        student: AnalogModule,
        teacher: nn.Module,
        arguments: dict[str, Any],
        words: str,
    ) -> None:
        with pytest.raises(TrainingError, match=words):
            distill(student, teacher, **{"train": batches(), "epochs": 1, **QUIET, **arguments})

    def test_noise_levels(self) -> None:
        with pytest.raises(TrainingError, match="eta_std is -1"):
            TrainingNoise(eta_std=-1)


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
