"""The optimizer and the schedule that a training has unless its caller brings others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from analogize.errors import TrainingError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


def sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """SGD with momentum; weight decay is the paper's L2 term."""
    return SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def cosine(optimizer: Optimizer, trainer: L.Trainer) -> dict[str, Any]:
    """A decay to 0 over all steps of the run, as Lightning is told of it."""
    schedule = CosineAnnealingLR(optimizer, _steps(trainer))
    return {"scheduler": schedule, "interval": "step"}


def require_whole(schedule: Any, trainer: L.Trainer) -> None:
    """Refuse to go on along a decay of another length: past its last step a cosine rises again.

    Args:
        schedule: what the checkpoint has restored.
        trainer: of this run.

    Raises:
        TrainingError: it falls to 0 over more steps than the run has, or fewer.
    """
    if not isinstance(schedule, CosineAnnealingLR) or schedule.T_max == _steps(trainer):
        return
    raise TrainingError(
        f"{trainer.ckpt_path}: its learning rate falls to 0 over {schedule.T_max} steps, and this "
        f"run has {_steps(trainer)}. Go on with the epochs, data and devices of before, or with a "
        "scheduler of your own; to train a finished model for longer, load it and start anew"
    )


def _steps(trainer: L.Trainer) -> int:
    return max(1, int(trainer.estimated_stepping_batches))
