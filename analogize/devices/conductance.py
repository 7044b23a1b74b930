"""Weights to conductances of cells, and back.

A weight w of a range whose larger end is w_full becomes a differential pair::

    G+ = g_min + (g_max - g_min) max(w, 0) / w_full
    G- = g_min + (g_max - g_min) max(-w, 0) / w_full
    w  = (G+ - G-) w_full / (g_max - g_min)

The same g_min on both sides cancels in the difference, so a finite on/off ratio costs precision
(g_max - g_min instead of g_max), not accuracy. Other encodings:

*offset*: one device a weight, against a reference column that every tile has, with a device a row
at the middle of the range; what it carries is taken off every column before the ADC::

    G+ = (g_min + g_max) / 2 + (g_max - g_min) w / (2 w_full)
    G- = (g_min + g_max) / 2, the same device for all columns of a tile
    w  = (G+ - G-) 2 w_full / (g_max - g_min)

*significance*: pairs whose currents are weighted by f_1 <= f_2 <= ..., of which a more significant
one is used where the range of those before it is exhausted (aihwkit, NPairConductanceConverter); on
the side of w's sign::

    v   = |w| (f_1 + f_2 + ...) / w_full, in units of g_max - g_min
    G_k = g_min + (g_max - g_min) clamp((v - f_1 - ... - f_k-1) / f_k, 0, 1)
    w   = w_full sum_k f_k (G_k+ - G_k-) / ((g_max - g_min) (f_1 + f_2 + ...))
"""

from __future__ import annotations

from torch import Tensor, stack

from analogize.quantize import Bound
from analogize.targets.conductance import Conductance


def to_cells(weights: Tensor, full: Bound, mapping: Conductance) -> Tensor:
    """The target conductances of the cells of each weight.

    Args:
        weights: any shape, with |weights| <= full.
        full: the magnitude that takes the whole conductance range, above 0; a number, or a tensor
            that broadcasts with ``weights`` (a scale for each column).
        mapping: the encoding.

    Returns:
        Shape (2, 1, *weights.shape) where all pairs are alike, or (2, pairs, *weights.shape): G+
        and G-.
    """
    low, high = mapping.g_min, mapping.g_max
    if mapping.encoding == "offset":
        middle = (low + high) / 2
        plus = weights * ((high - low) / (2 * full)) + middle
        return stack([plus, plus.new_full((), middle).expand_as(plus)]).unsqueeze(1)
    if mapping.significance is None:
        return to_pairs(weights, full, low, high).unsqueeze(1)
    scaled = weights * (sum(mapping.significance) / full)
    sides, before, pairs = stack([scaled, -scaled]), 0.0, []
    for factor in mapping.significance:
        pairs.append(((sides - before) / factor).clamp(0, 1) * (high - low) + low)
        before += factor
    return stack(pairs, 1)


def from_cells(cells: Tensor, full: Bound, mapping: Conductance) -> Tensor:
    """The weights that cells stand for; the inverse of ``to_cells``.

    Args:
        cells: shape (2, pairs, ...), in the unit of the mapping.
        full: as in ``to_cells``.
        mapping: as in ``to_cells``.
    """
    if mapping.significance is None:
        both = cells.squeeze(1) if mapping.pairs == 1 else cells.mean(1)
    else:
        factors = cells.new_tensor(mapping.significance) / sum(mapping.significance)
        both = (cells * factors.view(-1, *[1] * (cells.ndim - 2))).sum(1)
    if mapping.encoding == "offset":
        full = 2 * full
    return from_pairs(both, full, mapping.g_min, mapping.g_max)


def to_pairs(weights: Tensor, full: Bound, g_min: float, g_max: float) -> Tensor:
    """The target conductances of one differential pair for each weight.

    Args:
        weights: any shape, with |weights| <= full.
        full: as in ``to_cells``.
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
