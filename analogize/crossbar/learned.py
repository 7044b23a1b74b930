"""How the loss moves the range of a converter that is learned.

A converter gives s (v + rest) for the value s v, where ``rest`` is what rounding adds, in steps;
beyond the range it gives the range's end. With h half the range's width, N values, Q the largest
code, and g the loss's derivative by what the converter gives:

outward (the rule of aihwkit, simulator/tiles/periphery.py, and aihwkit-lightning,
nn/modules/torch_utils/torch_linear.py, by which Analog Foundation Models, arXiv:2505.09663, are
trained; there a value counts as beyond from the end on, here from half a step past it)::

    d max = h sum over v > max of min(g, 0)        d min = h sum over v < min of max(g, 0)

lsq (Learned Step Size Quantization, arXiv:1902.08153, with both ends instead of step and offset)::

    d max = (sum over v > max of g + sum inside of g rest / steps) / sqrt(N Q)
    d min = (sum over v < min of g - sum inside of g rest / steps) / sqrt(N Q)

Both add ``decay`` times the end where more than a share ``inside`` of the values is in the range.
The ends of a symmetric range move as one, max = -min, and each carries its derivative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from analogize.product import Product, columns
from analogize.quantize import Bound, clamp
from analogize.targets.spec import LearnedRange

if TYPE_CHECKING:
    from analogize.crossbar.arithmetic import Stages

# Less than the half by which a value that is not beyond the range may be rounded.
_ROUNDED = 0.499


class Learning(NamedTuple):
    """What decides how one converter's range moves.

    Attributes:
        rule: the target's.
        symmetric: whether the range is [-max, max].
        steps: how many steps the range has.
    """

    rule: LearnedRange
    symmetric: bool
    steps: float


class Ranges(NamedTuple):
    """The ranges that one call learns, which receive gradients; None where one is fixed."""

    dac: Tensor | None = None
    adc: Tensor | None = None


def rest(values: Tensor, step: Tensor, low: Bound, high: Bound, learning: Learning) -> Tensor:
    """What the converter adds to ``values``, in steps, float32; 1 below its range, -1 above it.

    Args:
        values: what it converts.
        step: its step, broadcast with ``values``.
        low: its smallest code.
        high: its largest.
        learning: without lsq, 0 stands for what rounding adds.
    """
    exact = values.float() / step
    rounded = exact.round()
    codes = clamp(rounded, low, high)
    beyond = (codes - rounded).clamp_(-1, 1)
    if learning.rule.gradient == "outward":
        return beyond
    return beyond.where(beyond != 0, (codes - exact).clamp_(-_ROUNDED, _ROUNDED))


def gradient(learning: Learning, ends: Tensor, grad: Tensor, change: Tensor) -> Tensor:
    """The gradient of the range, shaped as it is.

    Args:
        learning: the rule.
        ends: the range, (2) or (2, columns).
        grad: the loss's gradient by what the converter gives, in the units of the range; any
            shape, or (n, columns).
        change: what ``rest`` gave for every value.
    """
    columns = ends.shape[1:]
    grad, change = grad.float().reshape(-1, *columns), change.reshape(-1, *columns)
    below, above = change == 1, change == -1
    if learning.rule.gradient == "outward":
        half = (ends[1] - ends[0]) / 2
        high = half * grad.clamp(max=0).where(above, 0.0).sum(0)
        low = half * grad.clamp(min=0).where(below, 0.0).sum(0)
    else:
        inner = grad.mul(change).masked_fill(below | above, 0.0).sum(0) / learning.steps
        high = grad.where(above, 0.0).sum(0) + inner
        low = grad.where(below, 0.0).sum(0) - inner
        largest = (ends.abs().amax(0) / (ends[1] - ends[0])) * learning.steps
        scale = (len(grad) * largest).rsqrt()
        high, low = high * scale, low * scale
    inside = 1 - (below | above).float().mean(0)
    decays = learning.rule.decay * (inside > learning.rule.inside)
    high, low = high + decays * ends[1], low + decays * ends[0]
    if learning.symmetric:
        high, low = high - low, low - high
        # The decay of max = -min was counted once for each end.
        high, low = high - decays * ends[1], low - decays * ends[0]
    return torch.stack([low, high])


def sums_rest(acc: Tensor, stages: Stages, ends: Tensor | None) -> Tensor | None:
    """What a learned ADC adds to the sums ``acc``, as ``rest``; None for a fixed one."""
    if stages.y_learning is None or stages.step is None or ends is None:
        return None
    return rest(acc, stages.step, stages.y_low, stages.y_high, stages.y_learning)


def saturated(excess: Tensor, stages: Stages, ends: Tensor | None) -> Tensor:
    """Where the ADC saturates, not 0 there, of what the forward pass kept."""
    return excess if stages.y_learning is None or ends is None else excess.abs() == 1


def dac_gradient(ends: Tensor, grad: Tensor | None, x: Tensor, stages: Stages) -> Tensor | None:
    """The gradient of a learned DAC's range; ``grad`` is that of what the DAC gives."""
    learning, step = stages.x_learning, stages.x_scale
    if grad is None or learning is None or step is None:
        return None
    change = rest(x, step, stages.x_low, stages.x_high, learning)
    return gradient(learning, ends, grad, change)


def adc_gradient(
    ends: Tensor, grad: Tensor, change: Tensor, x: Tensor, product: Product, stages: Stages
) -> Tensor | None:
    """The gradient of a learned ADC's range; ``grad`` is that of the whole operator's output.

    ``change`` is shaped as the output, with any further leading dimensions for its tiles.
    """
    if stages.y_learning is None:
        return None
    grad = grad.float()
    if stages.shares is not None:
        grad = grad * stages.shares
    if stages.spans is not None:
        span = stages.spans.measure(x)[0]
        grad = grad * (span.squeeze(-1) if stages.spans.drops else span)
    grad = grad.expand_as(change)
    if ends.ndim > 1:
        channels = ends.shape[1]
        grad, change = (columns(product, one, channels) for one in (grad, change))
    return gradient(stages.y_learning, ends, grad, change)
