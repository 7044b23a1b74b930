"""Curves over conductance: the forms in which device figures are published, or measured.

Every curve gives a quantity (a standard deviation in microsiemens, a drift exponent, ...) as a
function of ``x``: the conductance over ``reference``, or the conductance itself without one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Level, Positive, Real, Spec, refuse

_Reference = Annotated[
    Positive | None,
    Field(description="Conductance that x is relative to, x = G / reference; null: x = G."),
]


class Polynomial(Spec):
    """c_0 + c_1 x + c_2 x^2 + ..."""

    kind: Literal["polynomial"] = "polynomial"
    coefficients: tuple[Real, ...] = Field(
        min_length=1, description="c_0, c_1, ...: constant term first."
    )
    reference: _Reference = None


class Logarithmic(Spec):
    """slope ln(x) + intercept, confined to [min, max]."""

    kind: Literal["logarithmic"] = "logarithmic"
    slope: Real = Field(description="Change per factor e of x.")
    intercept: Real = Field(description="Value at x = 1.")
    min: Real = Field(description="Smallest value; a rising curve's at x = 0.")
    max: Real = Field(description="Largest value; a falling curve's at x = 0.")
    reference: _Reference = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise refuse("min", f"min ({self.min:g}) must not be above max ({self.max:g})")
        return self


class Power(Spec):
    """min(coefficient / x^exponent, max)."""

    kind: Literal["power"] = "power"
    coefficient: Level = Field(description="Value at x = 1.")
    exponent: Level = Field(description="Power of 1 / x.")
    max: Level = Field(description="Largest value of the curve, also its value at x = 0.")
    reference: _Reference = None


class Saturating(Spec):
    """amplitude (1 - exp(-x / constant))."""

    kind: Literal["saturating"] = "saturating"
    amplitude: Level = Field(description="Value for large x.")
    constant: Positive = Field(description="The x at which 63 % of the amplitude is reached.")
    reference: _Reference = None


class Table(Spec):
    """Measured points, as many as there are; straight lines between them.

    A target uses conductances between the first and the last point; a device that noise carries
    beyond them is taken as at the nearest point.
    """

    kind: Literal["table"] = "table"
    conductance: tuple[Level, ...] = Field(min_length=2, description="Where: x, increasing.")
    value: tuple[Real, ...] = Field(min_length=2, description="What was found at each of them.")
    reference: _Reference = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.value) != len(self.conductance):
            raise refuse(
                "value",
                f"{len(self.value)} values for {len(self.conductance)} conductances; give one each",
            )
        _check_increasing("conductance", self.conductance)
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last conductance, in G's unit."""
        unit = self.reference or 1.0
        return self.conductance[0] * unit, self.conductance[-1] * unit


def _check_increasing(key: str, values: tuple[float, ...]) -> None:
    for index, (before, after) in enumerate(pairwise(values), start=1):
        if after <= before:
            raise refuse(f"{key}.{index}", f"must be above the one before ({before:g})")


SimpleCurve = Annotated[
    Polynomial | Logarithmic | Power | Saturating | Table, Field(discriminator="kind")
]


class Piecewise(Spec):
    """One curve below a conductance and another from it on."""

    kind: Literal["piecewise"] = "piecewise"
    split: Positive = Field(description="The conductance from which ``high`` holds, in G's unit.")
    low: SimpleCurve = Field(description="The curve below the split.")
    high: SimpleCurve = Field(description="The curve from the split on.")


class Pieces(Spec):
    """Any number of curves, each from one conductance to the next."""

    kind: Literal["pieces"] = "pieces"
    splits: tuple[Positive, ...] = Field(
        min_length=1, description="Where one curve ends and the next begins, in G's unit."
    )
    curves: tuple[SimpleCurve, ...] = Field(
        min_length=2, description="One more than splits: the first holds below the first split."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.curves) != len(self.splits) + 1:
            raise refuse(
                "curves",
                f"{len(self.curves)} curves for {len(self.splits)} splits; give one curve more",
            )
        _check_increasing("splits", self.splits)
        return self


Curve = Annotated[
    Polynomial | Logarithmic | Power | Saturating | Table | Piecewise | Pieces,
    Field(discriminator="kind"),
]


def parts(curve: Curve) -> tuple[Curve, ...]:
    """The curves that ``curve`` is made of; itself alone where it is one."""
    match curve:
        case Piecewise():
            return curve.low, curve.high
        case Pieces():
            return curve.curves
        case _:
            return (curve,)
