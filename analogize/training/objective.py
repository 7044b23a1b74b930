"""What a training step minimises, from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogize.errors import TrainingError
from analogize.model.scores import scored
from analogize.training.loss import check_settings, distillation_loss

Loss = Callable[[Any, Any, Any], Tensor]


@dataclass(frozen=True)
class Objective:
    """Equation 10 of Noisy Machines with its weights, or a loss of the user's, and its extras.

    Attributes:
        alpha: weight of the soft targets.
        temperature: softens both outputs.
        hard: weight of the labels' term; without it no labels are needed.
        features: weight of the operators' outputs beside the teacher's.
        draws: forward passes a step, each with noise of its own; their gradients are averaged.
        loss: replaces equation 10.
    """

    alpha: float = 1.0
    temperature: float = 6.0
    hard: float = 1.0
    features: float = 0.0
    draws: int = 1
    loss: Loss | None = None

    def __post_init__(self) -> None:
        check_settings(self.alpha, self.temperature, self.hard)
        if not 0 <= self.features < float("inf"):
            raise TrainingError(
                f"features is {self.features!r}; it must be a finite number of at least 0"
            )
        if not isinstance(self.draws, int) or isinstance(self.draws, bool) or self.draws < 1:
            raise TrainingError(f"draws is {self.draws!r}; it must be an integer of at least 1")
        if self.loss is None and not self.alpha and not self.hard:
            raise TrainingError("alpha and hard are both 0, which leaves nothing to learn from")

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's outputs enter."""
        return bool(self.alpha or self.loss or self.features)

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common; what is off is left out, as before it existed."""
        extras = {"hard": (self.hard, 1.0), "features": (self.features, 0.0)}
        extras["draws"] = (self.draws, 1)
        told = {name: value for name, (value, default) in extras.items() if value != default}
        return {"alpha": self.alpha, "temperature": self.temperature, **told}

    def __call__(self, outputs: Any, soft: Any, labels: Any) -> Tensor:
        """The loss of one forward pass, without features.

        Raises:
            TrainingError: labels are missing.
        """
        if self.loss is not None:
            return self.loss(outputs, soft, labels)
        if labels is None and self.hard:
            raise TrainingError(
                "the batch holds inputs and no labels, and the first term of equation 10 needs "
                "them: give (inputs, labels), hard=0 to learn from the teacher alone, or a loss of "
                "your own that needs none"
            )
        # Positions that have no label are left out of both terms.
        soft = None if soft is None else scored(soft, labels)[0]
        outputs, labels = scored(outputs, labels)
        return distillation_loss(outputs, soft, labels, self.alpha, self.temperature, self.hard)
