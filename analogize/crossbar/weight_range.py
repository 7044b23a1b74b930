"""The range of an array's weights, from the statistics of the weights it is made for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from analogize.crossbar.fitting import fit
from analogize.crossbar.stream import RESOLUTION, Stream
from analogize.errors import PassError
from analogize.product import Product, per_channel
from analogize.quantize import make_grid, percentiles
from analogize.targets import spec

# Smaller weights have steps, and products of steps, that float32 cannot hold.
_SMALLEST = 1e-30
# A rule of half a deviation clips 62 % of normal and 71 % of uniform weights, and means to.
_MOST = 0.75
# What rounding to float32, in which ranges are, does to a value, as a share of it; with room.
_ROUNDING = 8 * torch.finfo(torch.float32).eps


class NoRange(PassError):  # noqa: N818 - a reason to stay digital, not the end of a rewriting
    """Weights that no array can hold; while rewriting the region stays digital, and says why."""

    def __init__(self, region: str, reason: str) -> None:
        super().__init__(f"region '{region}': {reason}")
        self.reason = reason


def find_range(
    weight: Tensor, product: Product, settings: spec.Weights, name: str, tells: bool = True
) -> Tensor:
    """The range [W_min, W_max] that ``settings`` ask for, from the statistics of ``weight``.

    A warning tells where most weights are clipped, or lie on half a step of the grid, so that
    rounding errors decide what they become; only if ``tells``.

    Returns:
        float32, shape (2,), or (2, output channels) with per-channel granularity; infinite without
        a range, on the meta device (and without values) for weights that are there. A channel whose
        weights are all equal takes the layer's range.

    Raises:
        NoRange: there are no weights, none but zeros, or none that are real numbers in memory.
        PassError: the weights are not finite, or give a range that is empty.
    """
    _require_mappable(weight, settings, name)
    if weight.is_meta:
        channels = len(per_channel(product, weight.detach()))
        shape = (2,) if settings.granularity == "tensor" else (2, channels)
        return torch.empty(shape, device="meta")
    rule = settings.range
    rows = weight.detach().reshape(1, -1)
    if settings.granularity == "channel":
        rows = per_channel(product, weight.detach())
    if isinstance(rule, spec.LeastSquaresRange) and settings.granularity == "channel":
        ends = _least_squares_a_row(rows, settings)
    else:
        ends = torch.stack([_ends(row, settings) for row in rows], dim=1)
    ends = _with_extremes(rows, ends, rule, name)
    empty = ~(ends[1] - ends[0] > _SMALLEST) | _are_equal(rows, rule)
    if bool(empty.any()) and settings.granularity == "channel":
        one = settings.model_copy(update={"granularity": "tensor"})
        layer = find_range(weight, product, one, name, tells)
        return torch.where(empty, layer.unsqueeze(1), ends)
    if bool(empty.any()):
        low, high = ends[:, 0].tolist()
        raise PassError(
            f"region '{name}': the weights give the range [{low:g}, {high:g}], and W_min must be "
            "below W_max by more than rounding errors; keep the region digital, or use a fixed "
            "range"
        )
    if rule is not None and tells:
        _tell_what_is_lost(rows, ends, settings, name)
    return ends[:, 0] if settings.granularity == "tensor" else ends


def _require_mappable(weight: Tensor, settings: spec.Weights, name: str) -> None:
    if weight.layout != torch.strided:
        raise NoRange(name, "its weight is sparse, and an array is dense")
    if weight.is_complex():
        raise NoRange(name, "its weights are complex numbers")
    if weight.numel() == 0:
        raise NoRange(name, "it has no weights")
    if weight.is_meta:
        return
    # The extremes are NaN or infinite if any weight is; isfinite() would allocate a second copy.
    extremes = torch.stack(torch.aminmax(weight.detach()))
    if not bool(torch.isfinite(extremes).all()):
        raise PassError(
            f"region '{name}': its weights hold NaN or infinite values; repair the model first"
        )
    largest = float(extremes.abs().max())
    if settings.range is None or isinstance(settings.range, spec.FixedRange):
        return
    if largest < _SMALLEST:
        what = f"are at most {largest:g}" if largest else "are all zero"
        raise NoRange(
            name,
            f"its weights {what}, which gives no range; rewrite the model once they are trained, "
            "or use a fixed range",
        )


def _are_equal(rows: Tensor, rule: spec.WeightRange | None) -> Tensor:
    """Which rows hold one value up to rounding errors, of which a rule makes no range."""
    if not isinstance(rule, spec.StdRange | spec.PercentileRange | spec.MinMaxRange):
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    low, high = (end.double() for end in torch.aminmax(rows, dim=1))
    rounding = max(8 * torch.finfo(rows.dtype).eps, _ROUNDING)
    return high - low <= rounding * torch.maximum(low.abs(), high.abs())


def _with_extremes(rows: Tensor, ends: Tensor, rule: spec.WeightRange | None, name: str) -> Tensor:
    """The extremes for percentiles that coincide although the weights differ, as pruned ones."""
    if not isinstance(rule, spec.PercentileRange):
        return ends
    extremes = torch.stack(torch.aminmax(rows.float(), dim=1))
    coincide = ~(ends[1] - ends[0] > _SMALLEST) & (extremes[1] - extremes[0] > _SMALLEST)
    coincide &= ~_are_equal(rows, rule)
    if not bool(coincide.any()):
        return ends
    warnings.warn(
        f"region '{name}': the percentiles {rule.low:g} and {rule.high:g} of its weights coincide "
        "although the weights differ; their extremes are the range",
        stacklevel=2,
    )
    return torch.where(coincide, extremes, ends)


def _tell_what_is_lost(rows: Tensor, ends: Tensor, settings: spec.Weights, name: str) -> None:
    """Warn of weights that are mostly clipped, or mostly rounded by chance."""
    low, high = (end.to(rows).unsqueeze(1) for end in ends)
    # A weight on an end is not clipped because the end was rounded.
    beyond = _ROUNDING * torch.maximum(low.abs(), high.abs())
    clipped = float(((rows < low - beyond) | (rows > high + beyond)).float().mean())
    if clipped > _MOST:
        warnings.warn(
            f"region '{name}': {clipped:.0%} of the weights lie outside of their range "
            f"[{float(ends[0].min()):g}, {float(ends[1].max()):g}] and are clipped to its ends; "
            "use another rule (weights.range: {kind: absmax} clips nothing), or keep it digital",
            stacklevel=2,
        )
        return
    if settings.bits is None:
        return
    grid = make_grid(ends[0], ends[1], settings.bits, settings.grid)
    steps = (rows.float() / grid.scale.unsqueeze(1)).abs()
    beside_half = (steps.frac() - 0.5).abs() <= _ROUNDING * steps
    inside = (rows >= low - beyond) & (rows <= high + beyond)
    chance = float((beside_half & inside).float().mean())
    if chance > 0.5:
        warnings.warn(
            f"region '{name}': {chance:.0%} of the weights lie halfway between two codes of "
            f"{settings.bits} bits, so that rounding errors decide between them; use another "
            "number of bits, grid or rule of the range",
            stacklevel=2,
        )


def _ends(weight: Tensor, settings: spec.Weights) -> Tensor:
    values = weight.detach().float()
    match rule := settings.range:
        case None:
            return torch.tensor([-torch.inf, torch.inf], device=weight.device)
        case spec.StdRange():
            half = rule.multiple * _deviation(values)
            return torch.stack([-half, half])
        case spec.AbsMaxRange():
            half = torch.stack(torch.aminmax(values)).abs().max()
            return torch.stack([-half, half])
        case spec.PercentileRange():
            return percentiles(values, rule.low, rule.high)
        case spec.MinMaxRange():
            return torch.stack(torch.aminmax(values))
        case spec.LeastSquaresRange():
            stream = Stream()
            stream.add(values)
            resolution = RESOLUTION if stream.is_rounded else 0.0
            ends = fit(rule, *stream.values(), settings.bits, settings.grid, resolution)
            return torch.stack(ends).to(weight.device)
        case spec.FixedRange():
            return torch.tensor([rule.min, rule.max], device=weight.device)
    raise AssertionError(f"unhandled weight range {rule!r}")


def _deviation(values: Tensor) -> Tensor:
    """The standard deviation, of values too whose squares float32 cannot hold."""
    largest = torch.stack(torch.aminmax(values)).abs().max()
    if bool((largest > 1e-15) & (largest < 1e15)):
        return values.std(correction=0)
    return (values / largest).std(correction=0) * largest


def _least_squares_a_row(rows: Tensor, settings: spec.Weights) -> Tensor:
    values = rows.float().t().sort(0).values
    counts = torch.ones(len(values), dtype=torch.long, device=rows.device)
    rule = spec.LeastSquaresRange()
    return torch.stack(fit(rule, values, counts, settings.bits, settings.grid))
