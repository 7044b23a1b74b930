"""What happens to a chip between programming and a measurement: time, and digital remedies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.crossbar.chip import program
from analogize.devices.times import describe, seconds
from analogize.errors import EvaluationError
from analogize.evaluation.recalibrate import recalibrate
from analogize.targets.spec import Compensation


@dataclass(frozen=True)
class Deployment:
    """How every chip of a run is prepared before it is measured.

    Attributes:
        compensation: the digital correction of drift; None for the target's own.
        recalibration: batches that BatchNorm is re-estimated on, on every chip; None for not.
    """

    compensation: Compensation | None = None
    recalibration: Iterable[Any] | None = None

    @property
    def settings(self) -> str:
        """What a run's fingerprint keeps of it; empty for a chip that is left as it is."""
        words = [] if self.compensation is None else [f"compensation {self.compensation}"]
        if self.recalibration is not None:
            words.append("BatchNorm re-estimated")
        return ", ".join(words)

    def prepare(self, model: nn.Module, time: float | None) -> Callable[[int], None]:
        """What turns ``model`` into chip ``seed``, read ``time`` seconds after programming."""

        def make(seed: int) -> None:
            program(model, seed, drift_time=time or 0.0, compensation=self.compensation)
            if self.recalibration is not None:
                recalibrate(model, self.recalibration)

        return make


def drift_times(
    given: float | str | Sequence[float | str] | None,
) -> tuple[float | None, ...]:
    """The times asked for in seconds, one or several; (None,) where none were.

    Raises:
        EvaluationError: none, or one twice.
        ChipError: one that is no time.
    """
    if given is None:
        return (None,)
    asked = [given] if isinstance(given, float | int | str) else given
    times = tuple(map(seconds, asked))
    if not times:
        raise EvaluationError("drift_time is empty; give at least one time, or None")
    twice = [time for k, time in enumerate(times) if time in times[:k]]
    if twice:
        raise EvaluationError(f"drift_time holds {describe(twice[0])} twice; give every time once")
    return times


@contextmanager
def keeping_norms(model: nn.Module) -> Iterator[None]:
    """Within the block BatchNorm's statistics may change; afterwards they are as before."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    kept = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
