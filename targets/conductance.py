"""How weights become conductances."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Count, Level, Positive, Spec, refuse


class Conductance(Spec):
    """Signed weights as conductances of cells: by default a differential pair each.

    One device of a pair is up to g_max, the other one at g_min. The largest weight of the range
    takes the whole of g_max - g_min. Where cells are characterised by their current at a fixed read
    voltage, currents in nA stand for conductances.
    """

    g_min: Level = Field(
        default=0.0, description="Conductance of a weight of zero; above 0: finite on/off ratio."
    )
    g_max: Positive = Field(description="Conductance of the largest weight.")
    unit: Literal["uS", "nA"] = Field(
        default="uS", description="uS: microsiemens; nA: currents at the read voltage."
    )
    encoding: Literal["pair", "offset"] = Field(
        default="pair",
        description="pair: G+ and G- for every weight; offset: one device a weight from g_min to "
        "g_max, and on every tile one reference column at the middle, which is taken off every "
        "column before the ADC.",
    )
    pairs: Count = Field(
        default=1, description="Pairs (or devices) that hold the same weight and are averaged."
    )
    significance: tuple[Positive, ...] | None = Field(
        default=None,
        description="Instead of the mean: a factor on the current of each pair, from the lowest to "
        "the highest; a pair is used where those before it are exhausted.",
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
        if self.significance is None:
            return self
        if self.encoding != "pair":
            raise refuse("significance", "it is a factor on pairs, so give encoding: pair")
        if len(self.significance) != self.pairs:
            reason = f"give one factor a pair ({self.pairs}), or pairs: {len(self.significance)}"
            raise refuse("significance", reason)
        if any(later < before for before, later in pairwise(self.significance)):
            raise refuse("significance", "list the factors from the lowest to the highest")
        return self

    @property
    def on_off_ratio(self) -> float:
        """g_max / g_min; infinite for g_min = 0."""
        return self.g_max / self.g_min if self.g_min else float("inf")
