"""What happens to a chip between programming and a measurement: time, and digital remedies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from analogize.crossbar.chip import program
from analogize.crossbar.chip_data import Chip
from analogize.crossbar.ops import operators
from analogize.devices.times import describe, seconds
from analogize.errors import EvaluationError
from analogize.evaluation.adapt import Adaptation
from analogize.evaluation.kept import Kept
from analogize.evaluation.recalibrate import Recalibration
from analogize.targets.spec import Compensation

Remedy = Callable[[nn.Module], Any]


@dataclass
class Deployment:
    """How every chip of a run is prepared before it is measured.

    Attributes:
        compensation: the digital correction of drift; None for the target's own.
        recalibration: batches to recalibrate every chip on; or a function that changes the digital
            side of a model on a programmed chip, such as ``Recalibration`` or ``Adaptation``.
        conditions: under which chips are read, as in ``program``.
    """

    compensation: Compensation | None = None
    recalibration: Iterable[Any] | Remedy | None = None
    conditions: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        given = self.recalibration
        # A loader is no function, and a function that is a loader too is used as a function.
        is_data = given is not None and not callable(given)
        self._remedy: Any = Recalibration(given) if is_data else given  # type: ignore[arg-type]
        self._kept: Kept | None = None

    @property
    def settings(self) -> str:
        """What a run's fingerprint keeps of it; empty for a chip that is left as it is."""
        words = [] if self.compensation is None else [f"compensation {self.compensation}"]
        words += [f"{name} {float(value)!r}" for name, value in (self.conditions or {}).items()]
        if self._remedy is not None:
            name = getattr(self._remedy, "__qualname__", type(self._remedy).__name__)
            words.append(str(getattr(self._remedy, "settings", name)))
        return ", ".join(words)

    @property
    def _replaces_sides(self) -> bool:
        remedy = self._remedy
        matches = isinstance(remedy, Recalibration) and remedy.teacher is not None
        return matches or isinstance(remedy, Adaptation)

    @contextmanager
    def keeping(self, model: nn.Module) -> Iterator[None]:
        """Within the block chips are prepared on ``model``; afterwards it is as it was."""
        if self._remedy is None:
            yield
            return
        with Kept(model) as self._kept, ExitStack() as after:
            if isinstance(self._remedy, Recalibration | Adaptation):
                # The model may have been trained since another run; and a copy is not held on to.
                self._remedy.forget()
                after.callback(self._remedy.forget)
            yield

    def prepare(self, model: nn.Module, time: float | None) -> Callable[[int], None]:
        """What turns ``model`` into chip ``seed``, read ``time`` seconds after programming."""

        def make(seed: int) -> None:
            self._make(model, seed, time or 0.0)

        return make

    def prepare_given(self, model: nn.Module, chip: Chip) -> Callable[[int], None]:
        """What turns ``model`` into ``chip``, whatever seed is asked for."""
        return lambda _: self._make(model, chip, 0.0)

    def _make(self, model: nn.Module, chip: int | Chip, time: float) -> None:
        if self._kept is not None:
            # Every chip starts from what was trained, and not from what the last one needed.
            self._kept.restore()
            if self._replaces_sides:
                # It finds others in their place.
                for op in operators(model):
                    op.side = None
        rule, under = self.compensation, self.conditions
        program(model, chip, drift_time=time, compensation=rule, conditions=under)
        if self._remedy is not None:
            self._remedy(model)


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
