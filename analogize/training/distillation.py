"""Distillation with noise injection as a LightningModule, for any Lightning Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn

from analogize.crossbar.chip import clip_weights, erase, noise_level, noise_mode, program
from analogize.crossbar.digest import target_digest
from analogize.crossbar.located import learned_ranges
from analogize.crossbar.noise import level
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import chip_seed, integer
from analogize.crossbar.signature import KEY
from analogize.errors import SavingError, TrainingError
from analogize.model.calls import Call
from analogize.model.parts import report_of
from analogize.model.scores import scored
from analogize.model.sharding import drop_copies, has_shards, shard
from analogize.saving.lightning import add_description
from analogize.training import schedule
from analogize.training.averaging import decay_of
from analogize.training.batches import batch_size, unpack
from analogize.training.checkpoint import naming_unfit_state, require_same_settings
from analogize.training.diagnose import first_non_finite
from analogize.training.features import feature_loss, recording, shared_regions
from analogize.training.objective import Loss, Objective
from analogize.training.reseed import reseed, step_normal
from analogize.training.schedule import MakeOptimizer, MakeScheduler
from analogize.training.teacher import Teacher, clean, require_pair
from analogize.training.training_noise import TrainingNoise

_TEACHER = "teacher"


class Distillation(L.LightningModule):
    """A clean teacher, a noisy student, one loss: Noisy Machines, section 5.1.

    Each training step draws fresh weight noise in the student's forward pass and sends gradients
    through its clean weights; after each optimizer step the weights are projected into their fixed
    ranges. Validation logs ``val_accuracy`` without noise and ``val_accuracy_chips`` on programmed
    chips (classifiers), and ``val_loss`` on the first of them.

    Hand it to any ``lightning.Trainer`` for its devices, strategies, precisions, loggers and
    checkpoints, or let ``distill`` do it. ``current_epoch`` seeds torch's random state, so that a
    run resumed from a checkpoint of a whole epoch repeats the uninterrupted one.

    Args:
        student: a model from ``analogize``; a digital one is trained without noise or clipping.
        teacher: a model with the student's output shape, kept out of this module's parameters and
            checkpoints, and run in eval mode without gradients or noise. None where ``alpha`` is 0.
        alpha: weight of the soft targets; 0 is plain noise injection.
        temperature: softens both outputs.
        hard: weight of the labels' term; 0 learns from the teacher alone, without labels.
        features: weight of feature distillation: the squared error of every operator's output, as a
            share of its mean square in the teacher, a rewritten model with the same regions.
        draws: forward passes a step, each with noise of its own, whose gradients are averaged.
        optimizer: makes the optimizer from parameters; by default SGD with momentum 0.9, learning
            rate 0.01 and weight decay 1e-4, the paper's L2 term.
        scheduler: makes a scheduler from the optimizer, stepped every epoch; by default a cosine
            decay to 0 over all steps, stepped every step.
        loss: replaces ``distillation_loss``: a function of (student outputs, teacher outputs or
            None, labels or None). It need not use labels, and the data need not have any then.
        noise: the noise level during training.
        chips: chips programmed for each validation; 0 measures the clean accuracy only.
        seed: seeds noise, shuffling and validation chips, differently in every process.

    Raises:
        TrainingError: a setting is out of range, or student and teacher share parameters.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        alpha: float = 1.0,
        temperature: float = 6.0,
        hard: float = 1.0,
        features: float = 0.0,
        draws: int = 1,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        loss: Loss | None = None,
        noise: TrainingNoise | None = None,
        chips: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.objective = Objective(alpha, temperature, hard, features, draws, loss)
        require_pair(student, teacher, bool(alpha) and loss is None)
        self.student = student
        self._matched = shared_regions(student, teacher) if features else frozenset[str]()
        self._teacher = Teacher(teacher if self.objective.needs_teacher else None, self._matched)
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.noise = noise or TrainingNoise()
        self.chips, self.seed = (chips if operators(student) else 0), integer(seed, TrainingError)
        self._loaded_epoch = 0
        self._former = schedule.Former()

    # ------------------------------------------------------------------ training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch on one draw of noise, or its mean over several."""
        call, labels = unpack(batch)
        with self._training_noise(batch_idx):
            draws = self.objective.draws
            soft, wanted = self._teacher.answer(call)
            value = self._pass(call, labels, soft, wanted)
            for _ in range(draws - 1):
                value = value + self._pass(call, labels, soft, wanted)
            value = value if draws == 1 else value / draws
            if not bool(torch.isfinite(value)):
                raise TrainingError(
                    f"the loss is {float(value.detach())} at step {self.global_step} (epoch "
                    f"{self.current_epoch}, batch {batch_idx}): "
                    f"{first_non_finite(self.student, call)}. The weights were not updated and "
                    "checkpoints are as before; lower the learning rate or clip gradients"
                )
        loss = value.detach()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return value

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then project the weights: every optimizer and strategy passes here.

        Raises:
            TrainingError: the checkpoint's optimizer is not one of these parameters.
        """
        with naming_unfit_state(self.trainer, resumed=self._loaded_epoch > 0):
            super().optimizer_step(*args, **kwargs)
        self._project()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Project again, for strategies that update the weights only after ``optimizer_step``."""
        self._project()

    def configure_optimizers(self) -> Any:
        """SGD with a cosine decay to 0 unless the caller brought others.

        Raises:
            TrainingError: they are not those of the checkpoint to go on from.
        """
        # Counting the steps makes the first epoch's iterator, before on_train_epoch_start could
        # seed it, and once only: seeding between the two would split the epoch's stream.
        self._reseed_data(self._loaded_epoch)
        drop_copies(self.student)
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        optimizer, own = (self._make_optimizer or schedule.sgd)(parameters), self._make_scheduler
        made = schedule.cosine(optimizer, self.trainer) if own is None else own(optimizer)
        schedule.require_same_steps(self._former, optimizer, self.trainer, own is None)
        return {"optimizer": optimizer, "lr_scheduler": made}

    def _pass(self, call: Call, labels: Any, soft: Any, wanted: dict[str, Tensor]) -> Tensor:
        """The loss of one forward pass of the student."""
        with recording(self.student, self._matched) as found:
            value = self.objective(call(self.student), soft, labels)
        if not wanted:
            return value
        return value + self.objective.features * feature_loss(found, wanted)

    def _project(self) -> None:
        if operators(self.student):
            clip_weights(self.student)

    @contextmanager
    def _training_noise(self, batch_idx: int) -> Iterator[None]:
        ops, noise = operators(self.student), self.noise
        if not ops or noise == TrainingNoise():
            yield
            return
        base = noise.eta
        if base is None:
            models = ops[0].array.noise
            base = level(models[0]) if len(models) == 1 else 0.0
        done = self.current_epoch + batch_idx / max(1, self.trainer.num_training_batches)
        draw = step_normal(self.seed, self.global_step, self.global_rank)
        with noise_level(self.student, noise.at(base, done, draw)):
            yield

    def on_train_epoch_end(self) -> None:
        """Every process gets the same buffers: what is measured and saved is one model."""
        self._share_buffers()

    def on_train_end(self) -> None:
        """Once more, for callbacks that replace the weights by an average of their own."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        # BatchNorm's statistics come from each process's own batches. DDP copies the first one's at
        # the start of a pass only, and sharding strategies never do.
        if self.trainer.world_size > 1:
            for buffer in self.student.buffers():
                if buffer.numel():
                    distributed.broadcast(buffer, 0)

    # ------------------------------------------------------------------ validation

    def on_validation_start(self) -> None:
        """Measure one model, whichever process a batch falls to."""
        self._share_buffers()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Accuracy without noise and on chips; the loss on chips."""
        call, labels = unpack(batch)
        size = batch_size(call)
        with clean(self.student):
            outputs = call(self.student)
        self._log_accuracy("val_accuracy", outputs, labels, size)
        value = self.objective(outputs, self._teacher.answer(call)[0], labels)
        self.log("val_loss", value, batch_size=size, sync_dist=True)
        for number in range(self.chips):
            program(self.student, chip_seed(self.seed, number))
            with noise_mode(self.student, "programmed"):
                outputs = call(self.student)
            self._log_accuracy("val_accuracy_chips", outputs, labels, size)
        for op in operators(self.student):
            op.array.erase()

    def _log_accuracy(self, name: str, outputs: Any, labels: Any, size: int) -> None:
        outputs, labels = scored(outputs, labels)
        if not isinstance(outputs, Tensor) or not isinstance(labels, Tensor) or outputs.ndim < 2:
            return
        if (predicted := outputs.argmax(1)).shape == labels.shape:
            right = (predicted == labels).float().mean()
            self.log(name, right, batch_size=size, sync_dist=True, prog_bar=True)

    # ------------------------------------------------------------------ randomness, checkpoints

    def configure_model(self) -> None:
        """With ``ModelParallelStrategy``: shard the student's parameters (FSDP2), once.

        As one unit, because a graph reads its weights past the modules that own them. Override it
        to shard kept modules one by one.

        Raises:
            TrainingError: the strategy splits single products, which the operators do not; or
                ranges are learned, of which every process needs all.
        """
        if self.device_mesh is not None and not has_shards(self.student):
            if learned := next(iter(learned_ranges(self.student)), None):
                raise TrainingError(
                    f"'{learned}' is learned, and ModelParallelStrategy would share out its two "
                    'ends: use strategy="ddp", or a range that is calibrated'
                )
            shard(self.student, self.device_mesh)

    def on_fit_start(self) -> None:
        """Move the teacher beside the student; project weights that start outside.

        A chip that the student had is erased: it is not the one of the weights to come.
        """
        if operators(self.student):
            erase(self.student)
        self._teacher.to(self.device)
        self._project()

    def on_train_epoch_start(self) -> None:
        """Seed what shuffles this epoch's data, where its iterator is yet to be made."""
        if self.current_epoch > self._loaded_epoch:
            self._reseed_data(self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this epoch's noise, after the loader has drawn its order."""
        if batch_idx == 0:
            reseed(self.seed, self.current_epoch, self.global_rank, "noise")

    def _reseed_data(self, epoch: int) -> None:
        loader = self.trainer.train_dataloader
        if loader is None:
            loader = self.trainer.fit_loop._data_source.instance
        reseed(self.seed, epoch, self.global_rank, "data", loader)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the run depends on; refuse to replace a good checkpoint by a broken one."""
        broken = [n for n, p in self.student.named_parameters() if not bool(p.isfinite().all())]
        if broken:
            raise TrainingError(
                f"parameter '{broken[0]}' turned NaN or infinite in epoch {self.current_epoch}, "
                f"before step {self.global_step}: the last good checkpoint is kept; lower the "
                "learning rate or clip gradients"
            )
        checkpoint["analogize"] = self._settings()
        if operators(self.student) and not has_shards(self.student):
            # So that load() makes the student from the checkpoint alone; where it cannot be
            # described (a model that was read from ONNX), load() says so.
            with suppress(SavingError):
                add_description(checkpoint, self.student, "student.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            TrainingError: it is not from analogize, or another target or setting made it.
        """
        before, now = checkpoint.get("analogize"), self._settings()
        if not isinstance(before, Mapping):
            raise TrainingError("the checkpoint was not written by analogize's distillation")
        # Checkpoints from before do not say it.
        before = {key: now[key] for key in ("ema", _TEACHER)} | dict(before)
        teacher = {_TEACHER: now.pop(_TEACHER)}
        require_same_settings(before, now)
        self._require_fitting(checkpoint.get("state_dict"))
        require_same_settings(before, teacher)
        self._loaded_epoch = int(checkpoint.get("epoch", -1)) + 1
        self._former = schedule.former(checkpoint)

    def _require_fitting(self, saved: Any) -> None:
        """Name the first tensor that student and checkpoint disagree about."""
        own = self.state_dict()
        if not isinstance(saved, Mapping) or has_shards(self.student):
            return  # a sharded checkpoint is loaded in place, shard by shard
        for key in [*own, *saved]:
            if key.endswith(KEY):
                continue  # checkpoints from before have none
            shapes = [tuple(s[key].shape) if key in s else "missing" for s in (saved, own)]
            if shapes[0] != shapes[1]:
                raise TrainingError(
                    f"'{key}' is {shapes[0]} in the checkpoint and {shapes[1]} in the student: it "
                    "belongs to another model; name another file for resume"
                )

    def _settings(self) -> dict[str, Any]:
        report = report_of(self.student)
        return {
            "target": "digital" if report is None else report.target,
            "target_digest": target_digest(self.student),
            **self.objective.settings,
            # As it was before there was a start, for checkpoints from then.
            "noise": repr(self.noise).replace(", eta_start=0.0", ""),
            "seed": self.seed,
            "ema": decay_of(self.trainer),
            _TEACHER: self._teacher.digest,
        }
