"""Ranges of weights that narrow little by little during a training."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import TrainingError


class ShrinkingRanges(Callback):
    """Narrows every range linearly from ``start`` times its width to its own over a training.

    Weights then move inwards little by little and are never cut all at once. For the phase without
    noise: hand it to ``distill``, or ``shrink_from`` to ``train_robust``.

    Args:
        model: the rewritten model that is going to be trained; its ranges are the final ones.
        start: how many times as wide they are at first, at least 1.

    Raises:
        TrainingError: ``start`` is below 1.
    """

    def __init__(self, model: nn.Module, start: float) -> None:
        if not 1 <= start < float("inf"):
            raise TrainingError(
                f"shrink_from is {start!r}; it must be a finite number of at least 1"
            )
        self.start = start
        self._final = [op.array.range.detach().clone() for op in operators(model)]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the ranges of this step."""
        total = max(1.0, float(trainer.estimated_stepping_batches))
        self._set(pl_module, self.start + (1 - self.start) * min(1.0, trainer.global_step / total))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the final ranges."""
        self._set(pl_module, 1.0)

    def _set(self, module: nn.Module, factor: float) -> None:
        for op, final in zip(operators(module), self._final, strict=True):
            _set_range(op, final * factor)


@torch.no_grad()
def _set_range(op: AnalogOp, ends: Tensor) -> None:
    op.array.range.copy_(ends)
    op.array.refresh()
    op.refresh()
