"""Weights to differential pairs of conductances, and back.

A weight w of a range whose larger end is w_full becomes::

    G+ = g_min + (g_max - g_min) max(w, 0) / w_full
    G- = g_min + (g_max - g_min) max(-w, 0) / w_full
    w  = (G+ - G-) w_full / (g_max - g_min)

The same g_min on both sides cancels in the difference, so a finite on/off ratio costs precision
(g_max - g_min instead of g_max), not accuracy.
"""

from __future__ import annotations

from torch import Tensor, stack

from analogize.quantize import Bound


def to_pairs(weights: Tensor, full: Bound, g_min: float, g_max: float) -> Tensor:
    """The target conductances of one differential pair for each weight.

    Args:
        weights: any shape, with |weights| <= full.
        full: the magnitude that takes the whole conductance range, above 0; a number, or a tensor
            that broadcasts with ``weights`` (a scale for each column).
        g_min: conductance of a weight of zero, in microsiemens (any unit, the same throughout).
        g_max: conductance of a weight of ``full``.

    Returns:
        Shape (2, *weights.shape): G+ and G-.
    """
    scaled = weights * ((g_max - g_min) / full)
    return stack([scaled.clamp(min=0), (-scaled).clamp(min=0)]).add_(g_min)


def from_pairs(conductances: Tensor, full: Bound, g_min: float, g_max: float) -> Tensor:
    """The weights that pairs of conductances stand for; the inverse of ``to_pairs``.

    Args:
        conductances: shape (2, ...): G+ and G-, in the unit of ``g_min`` and ``g_max``.
        full: as in ``to_pairs``.
        g_min: as in ``to_pairs``.
        g_max: as in ``to_pairs``.
    """
    return (conductances[0] - conductances[1]) * (full / (g_max - g_min))
