"""Curves over conductance: the forms in which device figures are published.

Every curve gives a quantity (a standard deviation in microsiemens, a drift exponent, ...) as a
function of ``x``: the conductance over ``reference``, or the conductance itself without one.
"""

from __future__ import annotations

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
    min: Real = Field(description="Smallest value of the curve.")
    max: Real = Field(description="Largest value of the curve, also its value at x = 0.")
    reference: _Reference = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise refuse("min", f"min ({self.min:g}) must not be above max ({self.max:g})")
        if self.slope > 0:
            raise refuse("slope", "must be at most 0: the curve takes its maximum at x = 0")
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


SimpleCurve = Annotated[Polynomial | Logarithmic | Power | Saturating, Field(discriminator="kind")]


class Piecewise(Spec):
    """One curve below a conductance and another from it on."""

    kind: Literal["piecewise"] = "piecewise"
    split: Positive = Field(description="The conductance from which ``high`` holds, in G's unit.")
    low: SimpleCurve = Field(description="The curve below the split.")
    high: SimpleCurve = Field(description="The curve from the split on.")


Curve = Annotated[
    Polynomial | Logarithmic | Power | Saturating | Piecewise, Field(discriminator="kind")
]
