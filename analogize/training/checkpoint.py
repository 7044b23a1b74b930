"""The one checkpoint file of a run: under the very name asked for, whole, and refused by name."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim import Optimizer

from analogize.errors import TrainingError
from analogize.evaluation.ranks import is_lost_process

# What Lightning resumes from, and on_save_checkpoint adds.
_KEYS = (
    "analogize",
    "state_dict",
    "epoch",
    "global_step",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "pytorch-lightning_version",
)


class Checkpoint(ModelCheckpoint):
    """Writes ``file`` after every epoch: neither a suffix nor a metric is put into its name.

    It is written beside and then renamed, so that a killed run leaves the last one whole. Sharded
    strategies write a folder of that name.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(
            dirpath=file.parent, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.file = file
        self.has_begun = False

    def format_checkpoint_name(self, *args: Any, **kwargs: Any) -> str:
        """The file's own name, whatever the metrics."""
        return os.path.join(str(self.dirpath), self.file.name)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything was restored by now: what goes wrong from here on is no file's fault."""
        super().on_train_start(trainer, pl_module)
        self.has_begun = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A finished run is restored, and does not train."""
        self.has_begun = True

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        file, draft = Path(filepath), _beside(Path(filepath), "draft")
        if trainer.is_global_zero:
            _remove(draft)
        trainer.strategy.barrier()
        try:
            with _written_in_place(trainer):
                super()._save_checkpoint(trainer, os.fspath(draft))
            self._last_checkpoint_saved = filepath
            if trainer.is_global_zero:
                replace(draft, file)
        except (OSError, RuntimeError) as cause:
            if is_lost_process(cause):
                raise  # of a sharded model, whose parts nobody can gather any more
            with suppress(OSError):
                _remove(draft)
            raise TrainingError(
                f"cannot write the checkpoint to {file} after epoch {trainer.current_epoch}: "
                f"{cause}; the model keeps what it has learned, and the file what it held before"
            ) from cause
        trainer.strategy.barrier()


class _InPlace(TorchCheckpointIO):
    """Writes to the path itself: a draft needs no second one in the system's temporary folder."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)


@contextmanager
def _written_in_place(trainer: L.Trainer) -> Iterator[None]:
    """Lightning's own way leaves a file in the temporary folder where it is killed amid writing."""
    usual = trainer.strategy.checkpoint_io
    if type(usual) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = _InPlace()
    try:
        yield
    finally:
        trainer.strategy.checkpoint_io = usual


def existing(resume: str | os.PathLike[str]) -> str | None:
    """The checkpoint to go on from, or None where there is none yet.

    Raises:
        TrainingError: something else lies there.
    """
    file = Path(os.path.abspath(resume))  # bare, Lightning reads "best" and "last" as its own
    if any(mark in os.fspath(resume) for mark in ("::", "://")):
        raise TrainingError(
            f"resume={os.fspath(resume)!r} reads as an address to fsspec; name a local file "
            "without '::' or '://'"
        )
    former = _beside(file, "former")
    if not file.exists() and former.exists():
        os.replace(former, file)
    if not file.exists():
        return None
    if file.is_dir():
        if not (file / ".metadata").exists():
            raise TrainingError(f"{file} is a folder, not a checkpoint; name a file for resume")
        return os.fspath(file)
    _require_checkpoint(file)
    return os.fspath(file)


@contextmanager
def restoring(path: str | None, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Name the checkpoint in every error until training begins, and say who is lost after that.

    Raises:
        TrainingError: another process has ended; or the run cannot go on from ``path``. Its cause
            is what was raised.
    """
    try:
        yield
    except Exception as cause:
        if is_lost_process(cause):
            file = None if checkpoint is None else checkpoint.file
            kept = f"; go on from {file}" if file is not None and file.exists() else ""
            first = str(cause).strip().split("\n")[0]
            raise TrainingError(
                f"another process of the training has ended{kept} ({first})"
            ) from cause
        if path is None or checkpoint is None or checkpoint.has_begun:
            raise
        if isinstance(cause, TrainingError):
            raise TrainingError(f"{path}: {cause}") from cause
        raise TrainingError(_refusal(Path(path), cause)) from cause


def _require_checkpoint(file: Path) -> None:
    """Read the file without running anything of it: only tensors and plain containers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that it then refuses
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as cause:  # a damaged pickle raises whatever its opcodes run into
        raise TrainingError(_refusal(file, cause)) from cause
    lacking = [k for k in _KEYS if not isinstance(content, Mapping) or k not in content]
    if lacking:
        raise TrainingError(
            f"{file} is no checkpoint of distill(): it lacks {', '.join(lacking)}. Name another "
            "file for resume, or delete this one to start over"
        )


def require_same_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that says other things of its run than are asked for now.

    Raises:
        TrainingError: it does; all of them are named.
    """
    different = [
        f"{key} {before.get(key)!r} instead of {value!r}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if different:
        raise TrainingError(
            f"the checkpoint belongs to another run: {'; '.join(different)}. Rewrite the "
            "student for the same target and train with the same settings, or start without it"
        )


@contextmanager
def naming_unfit_state(trainer: L.Trainer, resumed: bool) -> Iterator[None]:
    """Say of a step that fails in a resumed run whether the checkpoint's optimizer is why.

    Raises:
        TrainingError: it is.
    """
    try:
        yield
    except Exception as cause:
        unfit = _unfit_state(trainer.optimizers) if resumed else None
        if unfit is None:
            raise
        raise TrainingError(
            f"{trainer.ckpt_path}: its optimizer's {unfit}, so the run cannot go on from it; "
            "delete it to start over, or name another file"
        ) from cause


def _unfit_state(optimizers: Iterable[Optimizer]) -> str | None:
    """The first state of an optimizer that is no number, and not shaped as its parameter either.

    Optimizers may keep what they like, so it is asked only after one has failed.
    """
    for optimizer in optimizers:
        for number, (parameter, state) in enumerate(optimizer.state.items()):
            for key, value in state.items() if isinstance(state, Mapping) else [("state", state)]:
                fits = isinstance(value, int | float | None)
                if isinstance(value, Tensor):
                    fits = value.shape in (parameter.shape, ())
                if not fits:
                    form = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    return (
                        f"'{key}' of parameter {number} is {form}, and the parameter "
                        f"{tuple(parameter.shape)}"
                    )
    return None


def _refusal(file: Path, cause: Exception) -> str:
    reason = str(cause).strip().split("\n")[0] or "no reason given"
    return (
        f"{file} cannot be resumed from ({type(cause).__name__}: {reason}); delete it to start "
        "over, or name another file"
    )


def _beside(file: Path, what: str) -> Path:
    return file.with_name(f".{file.name}.{what}")


def replace(draft: Path, file: Path) -> None:
    """Rename; a folder takes two steps, between which ``existing`` finds the former one."""
    if file.is_dir():
        former = _beside(file, "former")
        _remove(former)
        os.replace(file, former)
        os.replace(draft, file)
        _remove(former)
    else:
        os.replace(draft, file)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
