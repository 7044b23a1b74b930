"""Ranges that were found for other weights, and are used still.

Ranges are fixed once, on purpose: training keeps its weights inside (``clip_weights``). Where
weights become others in one step (PEFT's ``merge_and_unload``, ``weight.data = ...``), the former
range clips most of what is new. No counter tells of such writes, so a few of the weights are
compared with those of the call before, and all of them are looked at where these differ.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from analogize.crossbar.blocks import blocks
from analogize.crossbar.weight_range import find_range
from analogize.errors import PassError
from analogize.model.one_pass import running_pass
from analogize.model.sharding import is_sharded
from analogize.product import Product
from analogize.quantize import Bound
from analogize.targets import spec

if TYPE_CHECKING:
    from analogize.crossbar.array import WeightArray
    from analogize.crossbar.ops import AnalogOp

logger = logging.getLogger("analogize")

_SAMPLED = 64
# Beyond what the rule itself would clip of these weights, twice over: what training does.
_MORE = 0.01
_ENOUGH = 2**20


def is_found(settings: spec.Weights | spec.Converter) -> bool:
    """Whether a range comes from weights or data, and not from the target itself."""
    rule = settings.range
    return rule is not None and not isinstance(rule, spec.FixedRange | spec.VectorRange)


@torch.no_grad()
def tell_of_new_weights(op: AnalogOp, weight: Tensor) -> None:
    """Warn, once for a forward pass, where ``weight`` was replaced since its range was found.

    On accelerators, where comparing would wait for the device, only public functions look.
    """
    if weight.device.type != "cpu" or torch._C._are_functorch_transforms_active():
        return
    flat = weight.detach().reshape(-1) if weight.is_contiguous() else weight.detach()[:1].flatten()
    sample = flat[:: max(1, len(flat) // _SAMPLED)]
    before: Tensor | None = op.__dict__.get("_sample")
    if before is not None and before.dtype == sample.dtype and torch.equal(before, sample):
        return
    op.__dict__["_sample"] = sample.clone()
    this = running_pass()
    if this is not None and "stale" in this.kept:
        return
    if _tell([(op, weight)]) and this is not None:
        this.kept["stale"] = True


@torch.no_grad()
def tell_of_stale_ranges(found: Iterable[tuple[AnalogOp, Tensor]]) -> None:
    """Warn of every region of ``found`` whose weight, if it is whole, lies outside of its range."""
    _tell(found)


def _tell(found: Iterable[tuple[AnalogOp, Tensor]]) -> bool:
    told: dict[WeightArray, str] = {}
    for op, weight in found:
        if op.array not in told and (shares := _clipped(op.array, weight)) is not None:
            told[op.array] = f"'{op.region.name}': {shares[0]:.0%} instead of {shares[1]:.0%}"
    if told:
        first = ", ".join(list(told.values())[:3]) + (", ..." if len(told) > 3 else "")
        logger.warning(
            "weights lie outside of ranges that were found for others, and are clipped (%s): after "
            "replacing or merging weights call renew_ranges(model), then calibrate(model, loader); "
            "in training call clip_weights(model) after every step",
            first,
        )
    return bool(told)


def _clipped(array: WeightArray, weight: Tensor) -> tuple[float, float] | None:
    """The share of weights outside the range, and outside a new one, where that is far fewer."""
    if array.limits is None or not is_found(array.settings):
        return None
    if weight.shape != array.shape or is_sharded(weight):
        return None
    outside = _share(weight, array.product, *array.limits)
    if outside <= _MORE:
        return None
    by_channel = array.settings.granularity == "channel"
    # One range for all of many weights is that of some of them, as nearly as is asked here.
    every = 1 if by_channel else max(1, weight.numel() // _ENOUGH)
    some = weight if every == 1 else weight.detach().reshape(-1)[::every]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ends = find_range(some, array.product, array.settings, array.name, tells=False)
    except PassError:
        return None
    low, high = (array.product.channels(e, array.shape) if e.ndim else e for e in ends)
    expected = _share(some, array.product, low, high)
    return (outside, expected) if outside > 2 * expected + _MORE else None


def _share(weight: Tensor, product: Product, low: Bound, high: Bound) -> float:
    """The share of weights outside of [low, high], counted block by block."""
    by_channel = isinstance(low, Tensor) and low.ndim > 0
    found = 0
    for block in blocks(product, weight, by_channel):
        part = block.of(weight)
        # Of most ranges no weight lies outside, which the extremes tell sooner than comparisons.
        smallest, largest = torch.aminmax(part)
        if not by_channel and bool((smallest >= low) & (largest <= high)):
            continue
        outside = (part < block.beside(low)) | (part > block.beside(high))
        found += int(torch.count_nonzero(outside))
    return found / max(1, weight.numel())
