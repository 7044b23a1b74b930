"""The range that a rule makes of values: percentiles, extremes, deviation, least squared error.

All functions take values in ascending order, shape (n,) or (n, columns), and how often each
occurs, shape (n,); they give (minimum, maximum), each 0-d or one a column.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analogize.quantize import GridKind
from analogize.targets import spec

Ends = tuple[Tensor, Tensor]

# The search: from the extremes down to 2^-8 of them in eighths of an octave, then finer.
_COARSE = [2.0 ** (-k / 4) for k in range(33)]
# A share of the values of which finding the largest is cheaper than sorting all.
_FEW = 16
_FINE = [2.0 ** (k / 16) for k in range(-3, 4)]


def fit(
    rule: spec.CalibratedRange,
    values: Tensor,
    counts: Tensor,
    bits: int | None,
    grid: GridKind,
    resolution: float = 0.0,
) -> Ends:
    """The range of ``values`` by ``rule``.

    Args:
        rule: the target's.
        values: ascending along their first dimension.
        counts: how often each occurs.
        bits: of the grid over the range, which least squares asks for.
        grid: its kind.
        resolution: the spacing of ``values``, as a share of themselves; 0 for exact ones.
    """
    match rule:
        case spec.PercentileRange():
            return percentile(values, counts, rule.low), percentile(values, counts, rule.high)
        case spec.MinMaxRange():
            return values[0], values[-1]
        case spec.StdRange():
            return deviation(values, counts, rule.multiple)
        case spec.LeastSquaresRange():
            if bits is None:
                return values[0], values[-1]
            return least_squares(values, counts, bits, grid, resolution)
    raise AssertionError(f"unhandled range {rule!r}")


def percentile(values: Tensor, counts: Tensor, percent: float) -> Tensor:
    """Linearly interpolated between the neighbouring values, as numpy's default does."""
    ends = counts.cumsum(0)
    position = percent / 100 * (int(ends[-1]) - 1)
    below = int(position)
    places = torch.searchsorted(
        ends, torch.tensor([below, min(below + 1, int(ends[-1]) - 1)]), right=True
    )
    return torch.lerp(values[places[0]], values[places[1]], position - below)


def column_percentile(rows: Tensor, percent: float) -> Tensor:
    """As ``percentile``, of every column of ``rows``, shape (n, columns), in any order.

    Percentiles near the ends are found without sorting what lies between them.
    """
    last = len(rows) - 1
    position = percent / 100 * last
    below = int(position)
    above = min(below + 1, last)
    # Near one end, each column's few smallest or largest values do; each column in a row.
    turned, few = rows.t().contiguous(), len(rows) // _FEW
    if above < few:
        found = turned.topk(above + 1, largest=False).values
        ends = found[:, below], found[:, above]
    elif last - below < few:
        found = turned.topk(last - below + 1).values
        ends = found[:, last - below], found[:, last - above]
    else:
        found = turned.sort().values
        ends = found[:, below], found[:, above]
    return torch.lerp(*ends, position - below)


def deviation(values: Tensor, counts: Tensor, multiple: float) -> Ends:
    """``multiple`` standard deviations around the mean, no farther than the extremes."""
    weights = (counts.double() / counts.sum()).view(-1, *[1] * (values.ndim - 1))
    mean = (values.double() * weights).sum(0)
    variance = ((values.double() - mean).square() * weights).sum(0)
    half = multiple * variance.sqrt()
    low, high = (mean - half).float(), (mean + half).float()
    return torch.maximum(low, values[0]), torch.minimum(high, values[-1])


def least_squares(
    values: Tensor, counts: Tensor, bits: int, grid: GridKind, resolution: float = 0.0
) -> Ends:
    """The range whose grid of ``bits`` bits gives the least mean squared error.

    Found by shrinking both ends together, and then each by itself (an affine grid's may differ).
    """
    weights = counts.double().view(-1, *[1] * (values.ndim - 1)) / counts.sum()
    wide = values.double()

    def error(low: Tensor, high: Tensor) -> Tensor:
        return (squared_error(wide, low, high, bits, grid, resolution) * weights).sum(0)

    low, high = wide[0], wide[-1]
    if grid == "symmetric":
        half = torch.maximum(low.abs(), high.abs())
        factor = _search(lambda f: error(-half * f, half * f), half)
        return (-half * factor).float(), (half * factor).float()
    low, high = low.clamp(max=0), high.clamp(min=0)
    both = _search(lambda f: error(low * f, high * f), low)
    left, right = both, both
    for _ in range(2):
        right = _search(lambda f, fixed=left: error(low * fixed, high * f), low, right)  # type: ignore[misc]
        left = _search(lambda f, fixed=right: error(low * f, high * fixed), low, left)  # type: ignore[misc]
    return (low * left).float(), (high * right).float()


def _search(error: Callable[[Tensor], Tensor], like: Tensor, start: Tensor | None = None) -> Tensor:
    """The factor of the least error, shaped as ``like``; ``start`` is one to be tried first."""
    ones = torch.ones_like(like)
    best = ones if start is None else start
    least = error(best)
    for factors in (_COARSE, _FINE):
        around = ones if factors is _COARSE else best
        for factor in factors:
            candidate = (around * factor).clamp(max=1.0)
            found = error(candidate)
            best, least = candidate.where(found < least, best), torch.minimum(found, least)
    return best


def squared_error(
    values: Tensor, low: Tensor, high: Tensor, bits: int, grid: GridKind, resolution: float = 0.0
) -> Tensor:
    """Squared error of every value on the grid over [low, high], which holds 0; as make_grid.

    Values that were rounded to a spacing coarser than the grid's step say nothing of their own
    rounding; they count as spread evenly over a step.
    """
    if grid == "symmetric":
        last = 2.0 ** (bits - 1) - 1
        scale = torch.maximum(low.abs(), high.abs()) / last
        scale = scale.where(scale > 0, 1.0)
        codes = (values / scale).round_().clamp_(-last, last)
    else:
        steps = 2.0**bits - 1
        scale = (high - low) / steps
        scale = scale.where(scale > 0, 1.0)
        first = (low / scale).round_().clamp_(-steps, 0)
        codes = torch.clamp((values / scale).round_(), first, first + steps)
    error = (values - codes * scale).square_()
    if not resolution:
        return error
    inside = error <= scale.square() / 4
    blurred = inside & (values.abs() * resolution > scale)
    return torch.where(blurred, scale.square() / 12, error)
