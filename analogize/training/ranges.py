"""The range of weights, chosen by trial.

A smaller range holds the weights at a larger share of its width, which is what noise is measured
against: at eta, the ratio of signal to noise is rms(w) / (eta (W_max - W_min)). But it clips more,
and the network must learn to do without.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from analogize.api import analogize
from analogize.errors import TrainingError
from analogize.evaluation.montecarlo import evaluate
from analogize.evaluation.recalibrate import Recalibration
from analogize.evaluation.reference import norms
from analogize.targets import load_target
from analogize.targets.spec import Target
from analogize.training.train import distill
from analogize.training.training_noise import TrainingNoise


@dataclass(frozen=True)
class RangeTrial:
    """What came of one range.

    Attributes:
        multiple: the range, in standard deviations of each layer's (or channel's) weights.
        clean: accuracy without noise.
        noisy: mean accuracy over chips at the noise level.
    """

    multiple: float
    clean: float
    noisy: float


@dataclass(frozen=True)
class RangeChoice:
    """Trials in the order of their ranges; ``target`` has the best of them.

    Attributes:
        trials: one for each range.
        target: the target with the range whose chips were the most accurate.
    """

    trials: tuple[RangeTrial, ...]
    target: Target

    @property
    def best(self) -> RangeTrial:
        """The trial with the highest accuracy on chips; of equals, the widest range."""
        return max(self.trials, key=lambda trial: (trial.noisy, trial.multiple))

    def __str__(self) -> str:
        lines = [f"{'range':>7} {'clean':>7} {'chips':>7}"]
        for trial in self.trials:
            mark = " *" if trial is self.best else ""
            cells = f"{trial.multiple:7g} {100 * trial.clean:7.2f} {100 * trial.noisy:7.2f}"
            lines.append(cells + mark)
        return "\n".join(lines)


def choose_range(
    model: nn.Module,
    data: Iterable[Any],
    multiples: Sequence[float] = (0.75, 1.0, 1.5, 2.0, 3.0),
    eta: float | None = None,
    *,
    target: str | os.PathLike[str] | Target,
    train: Iterable[Any] | None = None,
    epochs: int = 1,
    instances: int = 5,
    granularity: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> RangeChoice:
    """Try ranges of so many standard deviations, each trained for a while, on the same chips.

    Every range gets a short distillation with noise from the clean ``model``, the same for all, and
    is measured on chips, with digital statistics re-estimated on ``data``. Clipping is healed by
    training and noise is not, so that without any training (``train=None``) wide ranges look better
    than they are.

    Args:
        model: the clean model, which is the teacher too; it is not changed.
        data: batches (inputs, labels) to measure on and, without labels, to recalibrate on; not
            the test set, where results are to be reported on that.
        multiples: ranges, in standard deviations.
        eta: the noise level; the target's own by default.
        target: all else, as for ``analogize``; its own range is replaced.
        train: what to train on, as for ``distill``; None measures clipped weights as they are.
        epochs: of each trial.
        instances: chips of each trial.
        granularity: ``"tensor"`` or ``"channel"``; the target's own by default.
        seed: of training and chips.
        settings: any other argument of ``distill``.

    Raises:
        TrainingError: no range, one that is not above 0, or twice the same.
        AnalogizeError: as ``analogize``, ``distill`` and ``evaluate``.
    """
    wanted = sorted(float(multiple) for multiple in multiples)
    if not wanted or wanted[0] <= 0 or len(set(wanted)) < len(wanted):
        raise TrainingError(
            f"multiples are {list(multiples)}; give one or several different numbers above 0"
        )
    loaded, batches = load_target(target), list(data)
    targets = [with_range(loaded, multiple, granularity) for multiple in wanted]
    trials = []
    for multiple, one in zip(wanted, targets, strict=True):
        with warnings.catch_warnings():
            # Clipping most weights is what some of the ranges are tried for.
            warnings.filterwarnings("ignore", ".*lie outside of their range", UserWarning)
            student = analogize(copy.deepcopy(model), one, batches)
        if train is not None:
            noise = settings.get("noise", TrainingNoise(eta=eta))
            options = {"chips": 0, **settings, "noise": noise, "seed": seed, "epochs": epochs}
            distill(student, model, train, **options)
        own = None if norms(student) else student
        few = Recalibration(batches, own)
        levels = [
            evaluate(
                student,
                batches,
                eta=level,
                instances=chips,
                seed=seed,
                recalibration=few,
                progress=False,
            ).levels[0]
            for level, chips in ((0.0, 1), (eta, instances))
        ]
        trials.append(RangeTrial(multiple, *(float(level.mean or 0.0) for level in levels)))
    found = RangeChoice(tuple(trials), loaded)
    return RangeChoice(found.trials, targets[wanted.index(found.best.multiple)])


def with_range(target: Target, multiple: float, granularity: str | None = None) -> Target:
    """``target`` with weights clipped to so many standard deviations."""
    fields = target.model_dump(by_alias=True)
    fields["weights"]["range"] = {"kind": "std", "multiple": multiple}
    if granularity is not None:
        fields["weights"]["granularity"] = granularity
    return Target.model_validate(fields)
