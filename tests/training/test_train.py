"""One training: its step, weights that stay in their ranges, its checkpoint, and bad input."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from analogize import (
    AnalogModule,
    Distillation,
    Target,
    TrainingNoise,
    analogize,
    clip_weights,
    distill,
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


class TestBadInput:
    def test_a_loss_that_is_not_finite_names_step_and_layer(
        self, student: AnalogModule, teacher: nn.Module, tmp_path: Path
    ) -> None:
        data = batches(6)
        file = tmp_path / "run.ckpt"
        level = partial(ConstantLR, factor=1.0)
        distill(student, teacher, data, epochs=1, scheduler=level, resume=file, **QUIET)
        kept = file.read_bytes()

        class Break(L.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
                if trainer.global_step == 8:
                    with torch.no_grad():
                        next(iter(module.student.parameters()))[0, 0] = torch.nan

        with pytest.raises(TrainingError) as raised:
            distill(
                student,
                teacher,
                data,
                epochs=2,
                scheduler=level,
                resume=file,
                callbacks=[Break()],
                **QUIET,
            )
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
