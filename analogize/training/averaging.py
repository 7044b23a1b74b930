"""The moving average of the weights that a training may end with."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class Average(EMAWeightAveraging):
    """Leaves the average in the model of a run that had nothing left to do, too.

    Lightning resumes with the weights of the last step, and puts the average in their place only at
    the end of a training that has at least one step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
        self.decay = decay
        self._handed_over = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand the average over."""
        super().on_train_end(trainer, pl_module)
        self._handed_over = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hand it over where no step was left."""
        if not self._handed_over:
            self.on_train_end(trainer, pl_module)


def decay_of(trainer: L.Trainer) -> float | None:
    """The decay of the average that ``trainer`` keeps, or None for none."""
    found = (each.decay for each in trainer.callbacks if isinstance(each, Average))  # type: ignore[attr-defined]
    return next(found, None)
