"""The noise level during training, from one step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analogize.errors import TrainingError


@dataclass(frozen=True)
class TrainingNoise:
    """The noise level during training; every default is the paper's.

    Attributes:
        eta: the level; None keeps the target's own, 0 trains without noise.
        eta_std: standard deviation of the level from one step to the next (Noisy Machines, end of
            the discussion of Fig. 3: eta drawn from N(eta_0, sigma_eta)); one draw for all layers.
        eta_warmup: epochs over which the level goes linearly from ``eta_start`` to ``eta``.
        eta_start: where it starts: below ``eta`` for a warm-up, above it to begin with more noise
            than there will be.
    """

    eta: float | None = None
    eta_std: float = 0.0
    eta_warmup: float = 0.0
    eta_start: float = 0.0

    def __post_init__(self) -> None:
        for name in ("eta", "eta_std", "eta_warmup", "eta_start"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise TrainingError(
                    f"{name} is {value!r}; it must be a finite number of at least 0"
                )

    def at(self, base: float, epochs: float, normal: Callable[[], float]) -> float:
        """The level after so many epochs, from the plain level ``base`` and a N(0, 1) draw."""
        drawn = abs(base + self.eta_std * normal()) if self.eta_std else base
        if not self.eta_warmup:
            return drawn
        done = min(1.0, epochs / self.eta_warmup)
        return drawn * done + self.eta_start * (1 - done)
