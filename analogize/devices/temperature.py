"""What temperature does to conductances."""

from __future__ import annotations

from torch import Tensor

# Electronvolts in a kelvin (exact since 2019).
BOLTZMANN = 8.617333262e-5


def activated(conductance: Tensor, energy: Tensor, temperature: float, reference: float) -> Tensor:
    """G exp(-(E / k) (1 / T - 1 / T0)), thermally activated conduction.

    Args:
        conductance: at the reference temperature, any shape and unit.
        energy: activation energies in electronvolts, of the same shape.
        temperature: T, in kelvin.
        reference: T0, likewise.
    """
    exponent = -(1 / temperature - 1 / reference) / BOLTZMANN
    return conductance * (energy * exponent).exp()
