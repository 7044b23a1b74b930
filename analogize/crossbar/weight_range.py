"""The range of an array's weights, from the statistics of the weights it is made for."""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.crossbar.fitting import fit
from analogize.crossbar.stream import RESOLUTION, Stream
from analogize.errors import PassError
from analogize.product import Product, per_channel
from analogize.quantize import percentiles
from analogize.targets import spec


def find_range(weight: Tensor, product: Product, settings: spec.Weights, name: str) -> Tensor:
    """The range [W_min, W_max] that ``settings`` ask for, from the statistics of ``weight``.

    Returns:
        float32, shape (2,), or (2, output channels) with per-channel granularity; infinite without
        a range, on the meta device (and without values) for weights that are there. A channel whose
        weights are all equal takes the layer's range.

    Raises:
        PassError: the weights are not finite, or give a range that is empty.
    """
    if weight.is_meta:
        channels = len(per_channel(product, weight.detach()))
        shape = (2,) if settings.granularity == "tensor" else (2, channels)
        return torch.empty(shape, device="meta")
    # The extremes are NaN or infinite if any weight is; isfinite() would allocate a second copy.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all()):
        raise PassError(
            f"region '{name}': its weights hold NaN or infinite values; repair the model first"
        )
    rule = settings.range
    if settings.granularity == "tensor":
        ends = _ends(weight, settings)
        if rule is not None and not bool(ends[0] < ends[1]):
            raise PassError(
                f"region '{name}': the weights give the range [{ends[0]:g}, {ends[1]:g}], and "
                "W_min must be below W_max; keep the region digital, or use a fixed range"
            )
        return ends
    rows = per_channel(product, weight.detach())
    if isinstance(rule, spec.LeastSquaresRange):
        ends = _least_squares_a_row(rows, settings)
    else:
        ends = torch.stack([_ends(row, settings) for row in rows], dim=1)
    empty = ends[0] >= ends[1]
    if bool(empty.any()):
        layer = find_range(
            weight, product, settings.model_copy(update={"granularity": "tensor"}), name
        )
        ends = torch.where(empty, layer.unsqueeze(1), ends)
    return ends


def _ends(weight: Tensor, settings: spec.Weights) -> Tensor:
    values = weight.detach().float()
    match rule := settings.range:
        case None:
            return torch.tensor([-torch.inf, torch.inf], device=weight.device)
        case spec.StdRange():
            half = rule.multiple * values.std(correction=0)
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


def _least_squares_a_row(rows: Tensor, settings: spec.Weights) -> Tensor:
    values = rows.float().t().sort(0).values
    counts = torch.ones(len(values), dtype=torch.long, device=rows.device)
    rule = spec.LeastSquaresRange()
    return torch.stack(fit(rule, values, counts, settings.bits, settings.grid))
