"""Checkpoints of Lightning's that ``load`` opens."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn

from analogize.saving.container import CHECKPOINT_KEY
from analogize.saving.store import describe


class DescribeAnalog(Callback):
    """Makes a run's checkpoints describe the analog parts of its LightningModule.

    Lightning's own ``load_from_checkpoint`` makes the class anew, which is right where the class
    rewrites its parts itself, in ``__init__`` or ``configure_model``. Where they were rewritten
    from outside, it refuses the ranges as unexpected keys; with this callback,
    ``analogize.load(checkpoint, MyModule)`` makes the module from the checkpoint::

        trainer = L.Trainer(callbacks=[DescribeAnalog()])
    """

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the description of every analog part."""
        add_description(checkpoint, pl_module)


def add_description(checkpoint: dict[str, Any], model: nn.Module, prefix: str = "") -> None:
    """Describe ``model``, whose entries in the checkpoint's state dict begin with ``prefix``."""
    checkpoint[CHECKPOINT_KEY] = describe(model) | {"prefix": prefix}
