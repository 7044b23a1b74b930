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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    etas: tuple[FiniteFloat | None, ...]
    metric: str
    drift_times: tuple[FiniteFloat, ...] = ()
    deployment: str = ""
    target: str
    weights: str


def fingerprint(
    model: nn.Module,
    seed: int,
    etas: Iterable[float | None],
    metric: str,
    times: Iterable[float | None] = (None,),
    deployment: str = "",
) -> Fingerprint:
    """What the values of a run depend on, data excepted.

    Args:
        model: A rewritten model.
        seed: The run's seed.
        etas: Noise levels, None for the target's own.
        metric: Name and settings of the metric.
        times: Seconds between programming and measuring; None where they were not asked for.
        deployment: What else happens to a chip before it is measured.
    """
    return Fingerprint(
        seed=seed,
        etas=tuple(etas),
        metric=metric,
        drift_times=tuple(time for time in times if time is not None),
        deployment=deployment,
        target=target_digest(model),
        weights=weights_digest(model),
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
    return [text for key, text in named.items() if getattr(now, key) != getattr(before, key)]


def _levels(of: Fingerprint) -> str:
    return ", ".join("the target's" if eta is None else f"{eta:g}" for eta in of.etas)
