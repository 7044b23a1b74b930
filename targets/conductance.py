"""How weights become conductances."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Count, Level, Positive, Spec, refuse


class Conductance(Spec):
    """Signed weights as differential pairs: one device up to g_max, the other one at g_min.

    The largest weight of the range takes the whole of g_max - g_min. Where cells are characterised
    by their current at a fixed read voltage, currents in nA stand for conductances.
    """

    g_min: Level = Field(
        default=0.0, description="Conductance of a weight of zero; above 0: finite on/off ratio."
    )
    g_max: Positive = Field(description="Conductance of the largest weight.")
    unit: Literal["uS", "nA"] = Field(
        default="uS", description="uS: microsiemens; nA: currents at the read voltage."
    )
    pairs: Count = Field(
        default=1, description="Differential pairs that hold the same weight and are averaged."
    )
    scale: Literal["tensor", "column"] = Field(
        default="tensor",
        description="What g_max stands for: the end of the layer's range that is farther from 0, "
        "or the largest magnitude in each column (output channel).",
    )
    bounded: bool = Field(
        default=False,
        strict=True,
        description="true: no device is read outside [g_min, g_max], whatever noise does.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.g_min >= self.g_max:
            raise refuse("g_min", f"g_min ({self.g_min:g}) must be below g_max ({self.g_max:g})")
        return self

    @property
    def on_off_ratio(self) -> float:
        """g_max / g_min; infinite for g_min = 0."""
        return self.g_max / self.g_min if self.g_min else float("inf")
