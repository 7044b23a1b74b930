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
Settings = list[dict[str, float]]
# Where a schedule starts from is kept beside the learning rate of the step.
_ASKED = {"initial_lr": "first learning rate", "weight_decay": "weight decay"}


def sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """SGD with momentum; weight decay is the paper's L2 term."""
    return SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def cosine(optimizer: Optimizer, trainer: L.Trainer) -> dict[str, Any]:
    """A decay to 0 over all steps of the run, as Lightning is told of it."""
    schedule = CosineAnnealingLR(optimizer, _steps(trainer))
    return {"scheduler": schedule, "interval": "step"}


def settings(optimizer: Optimizer) -> Settings:
    """What a caller asks of every group of parameters, and no schedule changes."""
    groups = optimizer.param_groups
    return [{name: group[key] for key, name in _ASKED.items() if key in group} for group in groups]


def require_same_steps(asked: Settings, trainer: L.Trainer, is_default: bool) -> None:
    """Refuse what a checkpoint has put in the place of the steps asked for.

    Args:
        asked: ``settings`` of the optimizer before the checkpoint was restored.
        trainer: of this run.
        is_default: whether the schedule is ``cosine``, which rises again past its last step.

    Raises:
        TrainingError: it began with another learning rate, has another weight decay, or its default
            schedule falls to 0 over more steps than this run has, or fewer.
    """
    held = settings(trainer.optimizers[0])
    for group, (before, now) in enumerate(zip(held, asked, strict=False)):
        for name, value in now.items():
            if before.get(name, value) != value:
                raise TrainingError(
                    f"{trainer.ckpt_path}: its {name} is {before[name]:g} and not {value:g}, as is "
                    f"asked for (parameter group {group}). Go on with the former, or start anew "
                    "with another file"
                )
    made = trainer.lr_scheduler_configs[0].scheduler if is_default else None
    if isinstance(made, CosineAnnealingLR) and made.T_max != _steps(trainer):
        raise TrainingError(
            f"{trainer.ckpt_path}: its learning rate falls to 0 over {made.T_max} steps, and this "
            f"run has {_steps(trainer)}. Go on with the epochs, data and devices of before, or "
            "with a scheduler of your own; to train a finished model for longer, load it and "
            "start anew"
        )


def _steps(trainer: L.Trainer) -> int:
    return max(1, int(trainer.estimated_stepping_batches))
