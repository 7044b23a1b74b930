"""A DAC that finds a range for every input vector, and the rescaling of its product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """A DAC whose range reaches as far as the values of each vector do.

    Attributes:
        dims: what a vector is, counted from the end of the input's dimensions.
        symmetric: whether the range is [-m, m] with m the largest magnitude; otherwise it is
            [low, low + m], from the smallest value, or 0, to the largest, or 0.
        steps: steps in m.
        drops: whether the product has no dimension in place of the vector.
    """

    dims: tuple[int, ...]
    symmetric: bool
    steps: float
    drops: bool

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(m, the smallest value or 0) of every vector, in float32 or wider; m is 1 for zeros."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.symmetric:
            span = x.abs().amax(self.dims, keepdim=True)
            low = -span
        else:
            low = x.amin(self.dims, keepdim=True).clamp(max=0)
            span = x.amax(self.dims, keepdim=True).clamp(min=0) - low
        return span.where(span > 0, 1.0), low

    def codes(self, x: Tensor, scale: Tensor) -> Tensor:
        """Zero-centred codes of ``x``; ``scale`` is the step of a vector whose span is 1."""
        span, low = self.measure(x)
        step = span * scale
        if self.symmetric:
            return (x / step).round_().clamp_(-self.steps, self.steps)
        first = (low / step).round_()
        return torch.clamp((x / step).round_(), first, first + self.steps)

    def rescale(self, y: Tensor, x: Tensor) -> Tensor:
        """``y``, the product of ``x`` divided by its spans, multiplied by them; in place."""
        span = self.measure(x)[0]
        return y.mul_(span.squeeze(-1) if self.drops else span)
