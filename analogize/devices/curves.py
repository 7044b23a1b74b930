"""Published curves as functions of a conductance tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.targets.curve import Curve, Logarithmic, Piecewise, Polynomial, Power, Saturating


def evaluate(curve: Curve, conductance: Tensor) -> Tensor:
    """The value of ``curve`` at every conductance.

    Args:
        curve: a polynomial, logarithmic, power, saturating or piecewise curve.
        conductance: any shape, at least 0, in the unit of the curve's reference.
    """
    if isinstance(curve, Piecewise):
        low, high = evaluate(curve.low, conductance), evaluate(curve.high, conductance)
        return torch.where(conductance < curve.split, low, high)
    x = conductance if curve.reference is None else conductance / curve.reference
    match curve:
        case Polynomial():
            return polynomial(x, curve.coefficients)
        case Logarithmic():
            # ln(0) = -inf, and the slope is not positive: the clamp gives the maximum.
            value = x.log().mul_(curve.slope).add_(curve.intercept) if curve.slope else x * 0
            return (value if curve.slope else value + curve.intercept).clamp(curve.min, curve.max)
        case Power():
            return (
                (curve.coefficient / x**curve.exponent).nan_to_num(curve.max).clamp(max=curve.max)
            )
        case Saturating():
            return curve.amplitude * -torch.expm1(-x / curve.constant)


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value.mul_(x).add_(coefficient)
    return value
