"""The optimizer and the schedule that a training has unless its caller brings others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from analogize.errors import TrainingError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]
# Where a schedule starts from is kept beside the learning rate of the step.
_ASKED = {"initial_lr": "first learning rate", "weight_decay": "weight decay"}


def sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """SGD with momentum; weight decay is the paper's L2 term."""
    return SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def cosine(optimizer: Optimizer, trainer: L.Trainer) -> dict[str, Any]:
    """A decay to 0 over all steps of the run, as Lightning is told of it."""
    schedule = CosineAnnealingLR(optimizer, _steps(trainer))
    return {"scheduler": schedule, "interval": "step"}


@dataclass(frozen=True)
class Former:
    """By which steps a checkpoint was made.

    Attributes:
        groups: first learning rate and weight decay of every group of parameters, by name.
        length: over how many steps its learning rate falls; None for a schedule without an end.
    """

    groups: tuple[dict[str, float], ...] = ()
    length: int | None = None


def former(checkpoint: Mapping[str, Any]) -> Former:
    """What a checkpoint of Lightning's says of it; nothing where other files hold the optimizer."""
    states, schedules = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
    groups = states[0]["param_groups"] if states else []
    return Former(_asked(groups), schedules[0].get("T_max") if schedules else None)


def require_same_steps(
    before: Former, optimizer: Optimizer, trainer: L.Trainer, is_default: bool
) -> None:
    """Refuse what restoring a checkpoint would put in the place of what is asked for.

    Args:
        before: of the checkpoint.
        optimizer: that was asked for, with its schedule.
        trainer: of this run.
        is_default: whether the schedule is ``cosine``, which rises again past its last step.

    Raises:
        TrainingError: it began with another learning rate, has another weight decay, or the default
            schedule was one of more steps than this run has, or fewer.
    """
    for group, (held, now) in enumerate(
        zip(before.groups, _asked(optimizer.param_groups), strict=False)
    ):
        for name, value in now.items():
            if held.get(name, value) != value:
                raise TrainingError(
                    f"the checkpoint's {name} is {held[name]:g}, and {value:g} is asked for "
                    f"(parameter group {group}). Go on with the former, or start anew with another "
                    "file"
                )
    if is_default and before.length not in (None, _steps(trainer)):
        raise TrainingError(
            f"the checkpoint's learning rate falls to 0 over {before.length} steps, and this run "
            f"has {_steps(trainer)}. Go on with the epochs, data and devices of before, or with a "
            "scheduler of your own; to train a finished model for longer, load it and start anew"
        )


def _asked(groups: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], ...]:
    """What a caller asks of every group, and no schedule changes."""
    return tuple({name: g[key] for key, name in _ASKED.items() if key in g} for g in groups)


def _steps(trainer: L.Trainer) -> int:
    return max(1, int(trainer.estimated_stepping_batches))
