"""distill(): one call around the LightningModule, and the whole procedure of section 5.1."""

from __future__ import annotations

import atexit
import copy
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import distributed, nn

from analogize.api import analogize
from analogize.crossbar.chip import clip_weights
from analogize.crossbar.ops import operators
from analogize.errors import TrainingError
from analogize.model.calls import device_of
from analogize.targets.spec import Target
from analogize.training.averaging import Average
from analogize.training.checkpoint import Checkpoint, existing, restoring
from analogize.training.distillation import Distillation
from analogize.training.objective import Loss
from analogize.training.schedule import MakeOptimizer, MakeScheduler
from analogize.training.shrinking import ShrinkingRanges
from analogize.training.training_noise import TrainingNoise

Model = TypeVar("Model", bound=nn.Module)


def distill(
    student: Model,
    teacher: nn.Module | None,
    train: Iterable[Any],
    val: Iterable[Any] | None = None,
    *,
    epochs: int = 30,
    alpha: float = 1.0,
    temperature: float = 6.0,
    hard: float = 1.0,
    features: float = 0.0,
    draws: int = 1,
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    loss: Loss | None = None,
    noise: TrainingNoise | None = None,
    ema: float | None = None,
    chips: int = 3,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    **trainer: Any,
) -> Model:
    """Train ``student`` in place to withstand its target's noise, with a clean teacher's help.

    The loss is equation 10 of Noisy Machines, section 5.1; see ``Distillation`` for what a step
    does and ``distillation_loss`` for the loss. ``teacher=None, alpha=0`` is plain noise injection;
    with ``noise=TrainingNoise(eta=0)`` it fine-tunes clipped and quantized weights without noise,
    and for a digital ``student`` it is ordinary training.

    Torch's random state is put back afterwards; generators of ``train`` are reseeded every epoch.
    Nothing is written to disk unless ``resume`` or a trainer argument says where.

    Args:
        student: a model from ``analogize``, trained in place.
        teacher: a model with the same output shape; of any architecture. It is not changed.
        train: a DataLoader or another sized iterable of (inputs, labels).
        val: the same, for validation after every epoch.
        epochs: passes over ``train``.
        alpha: weight of the soft targets.
        temperature: T.
        hard: weight of the labels' term; 0 learns from the teacher alone, without labels.
        features: weight of feature distillation, as for ``Distillation``.
        draws: noise draws a step, whose gradients are averaged.
        optimizer: makes the optimizer from parameters; SGD by default.
        scheduler: makes a scheduler, stepped every epoch; cosine decay by default.
        loss: replaces equation 10, for models that are not classifiers.
        noise: the noise level during training; the target's own by default.
        ema: decay of an exponential moving average of the weights, which is what is validated and
            returned; None for none.
        chips: programmed chips in each validation.
        seed: seeds everything that the run draws.
        resume: a checkpoint file of any name, written after every epoch and, where it exists,
            continued; with the default schedule, by a run of as many steps.
        trainer: anything that ``lightning.Trainer`` takes: ``accelerator``, ``devices``,
            ``num_nodes``, ``strategy``, ``precision``, ``accumulate_grad_batches``, ``logger``,
            ``callbacks``, ...; one device, and neither logger nor checkpoints, by default. With
            ``ModelParallelStrategy`` the student is fully sharded (FSDP2), and stays so.

    Returns:
        ``student``, on its device and in its train or eval mode of before.

    Raises:
        TrainingError: settings, data, models or the checkpoint do not fit, or the loss is not
            finite.
    """
    _check(train, val, epochs, ema, trainer.get("strategy"))
    module = Distillation(
        student,
        teacher,
        alpha=alpha,
        temperature=temperature,
        hard=hard,
        features=features,
        draws=draws,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=loss,
        noise=noise,
        chips=chips,
        seed=seed,
    )
    path = None if resume is None else existing(resume)
    keeper = None if resume is None else Checkpoint(Path(resume))
    average = None if ema is None else Average(ema)
    with _quiet():
        runner = _trainer(trainer, epochs, [c for c in (average, keeper) if c is not None])
    homes = [(m, device_of(m)) for m in (student, teacher) if m is not None]
    modes = [(m, m.training) for m in student.modules()]
    with torch.random.fork_rng(), _quiet(), _ended_at_exit(), restoring(path, keeper):
        try:
            runner.fit(module.train(), _loader(train), _loader(val), ckpt_path=path)
        finally:
            for model, device in homes:
                model.to(device)
            for part, training in modes:
                part.training = training
    if operators(student):
        clip_weights(student)
    return student


def train_robust(
    model: nn.Module,
    target: str | os.PathLike[str] | Target,
    train: Iterable[Any],
    val: Iterable[Any] | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    epochs: tuple[int, int, int] = (30, 10, 30),
    optimizers: tuple[MakeOptimizer | None, MakeOptimizer | None, MakeOptimizer | None] = (None,)
    * 3,
    folder: str | os.PathLike[str] | None = None,
    shrink_from: float = 1.0,
    **settings: Any,
) -> nn.Module:
    """The whole procedure of Noisy Machines, section 5.1, from an untrained model.

    The model is trained clean, in place; rewritten for ``target``, which clips its weights to
    their ranges, and fine-tuned back without noise; then retrained with noise from those weights.
    The teacher is the clipped clean model, as in the paper, where nothing is quantized, and the
    full-precision clean one where the target quantizes weights (section 5.2).

    Args:
        model: what to train; an accurate one may skip the first step with 0 epochs.
        target: as for ``analogize``.
        train: as for ``distill``.
        val: as for ``distill``.
        calibration: as for ``analogize``; ``train`` by default, of which it takes every batch.
        epochs: of the three steps; 0 leaves a step out.
        optimizers: of the three steps.
        folder: where each step keeps its checkpoint; nothing is written by default.
        shrink_from: how many times as wide as its own every range is at the start of the second
            step, over which it narrows linearly; 1 clips at once.
        settings: any other argument of ``distill``; those of the loss (``alpha`` to ``draws``,
            ``loss``), ``noise`` and ``ema`` apply to the last step only.

    Returns:
        The retrained model.

    Raises:
        TrainingError: as ``distill``.
        AnalogizeError: as ``analogize``.
    """
    robust = {k: settings.pop(k) for k in _LAST_STEP_ONLY if k in settings}
    files = [None if folder is None else Path(folder) / f"{s}.ckpt" for s in _STEPS]
    plain = dict(alpha=0.0, **settings)
    steps = list(zip(epochs, optimizers, files, strict=True))

    def run(index: int, student: nn.Module, teacher: nn.Module | None, kwargs: Any) -> None:
        count, optimizer, file = steps[index]
        if count:
            options = {"epochs": count, "optimizer": optimizer, "resume": file, **kwargs}
            distill(student, teacher, train, val, **options)

    run(0, model, None, plain)
    student = analogize(model, target, train if calibration is None else calibration)
    rest = plain | {"noise": TrainingNoise(eta=0.0)}
    if shrink_from != 1 and epochs[1]:
        rest["callbacks"] = [*(plain.get("callbacks") or []), ShrinkingRanges(student, shrink_from)]
    run(1, student, None, rest)
    quantized = any(op.array.bits is not None for op in operators(student))
    teacher = model if quantized else copy.deepcopy(student)
    run(2, student, teacher, settings | robust)
    return student


_STEPS = ("clean", "clipped", "noisy")
_LAST_STEP_ONLY = ("alpha", "temperature", "hard", "features", "draws", "loss", "noise", "ema")


class _Batches:
    """A list of batches as one loader: Lightning takes a list for several loaders."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _loader(data: Iterable[Any] | None) -> Any:
    return _Batches(data) if isinstance(data, list | tuple) else data


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of devices and loggers, and warnings that no caller can act on.

    It compares tree specifications in a way that newer versions of torch announce to drop, misses
    the validation data that are optional here, finds a checkpoint folder that is not empty, which a
    resumed run's never is, or another one than before, of which nothing is used but the checkpoint,
    and an average of weights that could be sharded, which is refused here.
    """
    talk = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = talk.level
    with warnings.catch_warnings(), ExitStack() as after:
        after.callback(talk.setLevel, level)
        talk.setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")
        warnings.filterwarnings("ignore", "You're using the WeightAveraging callback with a model")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", "The dirpath has changed from")
        yield


@contextmanager
def _ended_at_exit() -> Iterator[None]:
    """Have a process group that training begins ended before the interpreter ends.

    The threads of gloo's, still there at the very end, can abort a process that did all its work
    (https://github.com/pytorch/pytorch/issues/190489); Lightning ends no other group than NCCL's.
    It cannot end with training: what follows may be evaluated on the same processes.
    """
    had = _has_group()
    try:
        yield
    finally:
        if _has_group() and not had:
            atexit.register(_end_group)


def _has_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _end_group() -> None:
    if _has_group():
        distributed.destroy_process_group()


def _trainer(given: dict[str, Any], epochs: int, own: list[Callback]) -> L.Trainer:
    callbacks = [*(given.pop("callbacks", None) or []), *own]
    keeps = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    defaults: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": keeps,
        "enable_model_summary": False,
        # A sanity check would draw random numbers that a resumed run does not draw.
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(max_epochs=epochs, callbacks=callbacks, **defaults | given)


def _check(train: object, val: object, epochs: int, ema: float | None, strategy: object) -> None:
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise TrainingError(f"epochs is {epochs!r}; it must be an integer of at least 1")
    if ema is not None and not 0 < ema < 1:
        raise TrainingError(f"ema is {ema!r}; a decay lies between 0 and 1, or None for none")
    if ema is not None and isinstance(strategy, ModelParallelStrategy):
        raise TrainingError(
            "Lightning averages whole weights only, and ModelParallelStrategy shards them: leave "
            'ema out, or use strategy="ddp"'
        )
    for name, data in (("train", train), ("val", val)):
        if data is None and name == "val":
            continue
        try:
            empty = len(data) == 0  # type: ignore[arg-type]
        except TypeError as cause:
            raise TrainingError(
                f"{name} is a {type(data).__name__} without a length; pass a DataLoader or a list "
                "of batches, which can be gone through once an epoch"
            ) from cause
        if empty:
            raise TrainingError(f"{name} holds no batch")
