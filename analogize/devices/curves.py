"""Published curves as functions of a conductance tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.targets.curve import (
    Curve,
    Logarithmic,
    Pieces,
    Piecewise,
    Polynomial,
    Power,
    Saturating,
    Table,
)


class Conductances:
    """Conductances at which several curves are evaluated; their logarithms are taken once.

    Attributes:
        values: any shape, at least 0, in the unit of the curves' references.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._logs: dict[float | None, Tensor] = {}

    def over(self, reference: float | None) -> Tensor:
        """x, the conductances over ``reference``; themselves without one."""
        return self.values if reference is None else self.values / reference

    def log(self, reference: float | None) -> Tensor:
        """Ln x; -inf at 0."""
        if reference not in self._logs:
            self._logs[reference] = self.over(reference).log()
        return self._logs[reference]


def evaluate(curve: Curve, conductance: Tensor | Conductances) -> Tensor:
    """The value of ``curve`` at every conductance, in a tensor of its own.

    Args:
        curve: any of ``targets/curve.py``.
        conductance: any shape, at least 0, in the unit of the curve's reference.
    """
    at = conductance if isinstance(conductance, Conductances) else Conductances(conductance)
    match curve:
        case Piecewise():
            low, high = evaluate(curve.low, at), evaluate(curve.high, at)
            return torch.where(at.values < curve.split, low, high)
        case Pieces():
            value = evaluate(curve.curves[0], at)
            for split, above in zip(curve.splits, curve.curves[1:], strict=True):
                value = torch.where(at.values < split, value, evaluate(above, at))
            return value
        case Polynomial():
            return polynomial(at.over(curve.reference), curve.coefficients)
        case Logarithmic():
            if not curve.slope:  # 0 times ln(0) is no number
                value = torch.full_like(at.values, curve.intercept)
            else:
                # ln(0) = -inf: the clamp gives a falling curve's maximum, a rising one's minimum.
                value = at.log(curve.reference).mul(curve.slope).add_(curve.intercept)
            return value.clamp_(curve.min, curve.max)
        case Power():
            value = at.over(curve.reference).pow(-curve.exponent).mul_(curve.coefficient)
            return value.nan_to_num_(curve.max).clamp_(max=curve.max)
        case Saturating():
            scaled = at.over(curve.reference) * (-1 / curve.constant)
            return scaled.expm1_().mul_(-curve.amplitude)
        case Table():
            return interpolate(at.over(curve.reference), curve.conductance, curve.value)


def interpolate(x: Tensor, points: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Straight lines between measured points; beyond the ends, the value of the nearest."""
    at, found = x.new_tensor(points), x.new_tensor(values)
    after = torch.bucketize(x, at).clamp_(1, len(points) - 1)
    low, high = at[after - 1], at[after]
    return torch.lerp(found[after - 1], found[after], ((x - low) / (high - low)).clamp_(0, 1))


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value.mul_(x).add_(coefficient)
    return value
