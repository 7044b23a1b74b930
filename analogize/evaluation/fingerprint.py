"""What the values of a Monte Carlo run depend on, and how two runs differ."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, FiniteFloat
from torch import nn

from analogize.crossbar.digest import target_digest, weights_digest


class Fingerprint(BaseModel):
    """What decides the values of a run, so that a resumed run continues the same one.

    Attributes:
        seed: The seed that the chips' seeds derive from.
        etas: The noise levels asked for.
        metric: The metric's name and settings.
        drift_times: Seconds between programming and measuring; empty where none were asked for.
        deployment: What else happens to a chip before it is measured, in words.
        target: Digest of every operator's noise, converters and grids.
        weights: Digest of the model's ``state_dict``, calibrated ranges included.
        data: Digest of some of the data, and how many there are; empty where that is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    etas: tuple[FiniteFloat | None, ...]
    metric: str
    drift_times: tuple[FiniteFloat, ...] = ()
    deployment: str = ""
    target: str
    weights: str
    data: str = ""

    def __eq__(self, other: object) -> bool:
        """Whether one run can continue the other: data that nobody knows may be the same."""
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return not differences(self, other)

    __hash__ = None  # type: ignore[assignment]


def fingerprint(
    model: nn.Module,
    seed: int,
    etas: Iterable[float | None],
    metric: str,
    times: Iterable[float | None] = (None,),
    deployment: str = "",
    data: str = "",
) -> Fingerprint:
    """What the values of a run depend on.

    Args:
        model: A rewritten model.
        seed: The run's seed.
        etas: Noise levels, None for the target's own.
        metric: Name and settings of the metric.
        times: Seconds between programming and measuring; None where they were not asked for.
        deployment: What else happens to a chip before it is measured.
        data: What ``data_digest`` tells of the data.
    """
    return Fingerprint(
        seed=seed,
        etas=tuple(etas),
        metric=metric,
        drift_times=tuple(time for time in times if time is not None),
        deployment=deployment,
        target=target_digest(model),
        weights=weights_digest(model),
        data=data,
    )


def differences(now: Fingerprint, before: Fingerprint) -> list[str]:
    """What two runs differ in, a phrase each; empty if one can continue the other."""
    named = {
        "seed": f"seed {before.seed} instead of {now.seed}",
        "etas": f"noise levels {_levels(before)} instead of {_levels(now)}",
        "drift_times": f"times {before.drift_times} instead of {now.drift_times}",
        "deployment": f"'{before.deployment}' instead of '{now.deployment}'",
        "metric": f"metric {before.metric} instead of {now.metric}",
        "target": "another target (noise, converters or grids)",
        "weights": "other weights or calibrated ranges",
    }
    if now.data and before.data:
        counts = [of.data.partition(" samples")[0] for of in (before, now)]
        named["data"] = "other data"
        if counts[0] != counts[1]:
            named["data"] = f"the data held {counts[0]} samples before and {counts[1]} now"
    return [text for key, text in named.items() if getattr(now, key) != getattr(before, key)]


def _levels(of: Fingerprint) -> str:
    return ", ".join("the target's" if eta is None else f"{eta:g}" for eta in of.etas)
