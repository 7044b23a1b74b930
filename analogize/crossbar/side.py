"""What digital electronics do to one product's output, after the ADC and before the bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analogize.crossbar.origin import digest_of
from analogize.product import Convolution, Linear, Product, output_channels


class DigitalSide(nn.Module):
    """``scale * y + offset`` per output channel, and a digital branch beside the array.

    The branch is ``up @ (down * x)``, a product of low rank with the array's own input; without
    ``up`` it is the product with ``down`` alone. All of it is digital: no noise, no converters. It
    starts as the identity, ``recalibrate`` and ``adapt`` set it, and it is saved with the model.

    Attributes:
        scale: one factor an output channel, float32 (C).
        offset: one addend an output channel, float32 (C).
        down: weights shaped as the array's with R instead of C output channels, or None.
        up: (C, R), or None.
        made_on: digest of the chip that it was made on; None for one made without a chip, and for
            one that came with a state dict, which does not say.
        is_told: whether a warning said that another chip is programmed now.
    """

    scale: Tensor
    offset: Tensor
    down: Tensor | None
    up: Tensor | None

    def __init__(self, product: Product, shape: torch.Size, device: torch.device) -> None:
        super().__init__()
        self.product = product
        self.made_on: str | None = None
        self.is_told = False
        channels = output_channels(product, shape)
        self.register_buffer("scale", torch.ones(channels, device=device))
        self.register_buffer("offset", torch.zeros(channels, device=device))
        self.register_buffer("down", None)
        self.register_buffer("up", None)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """The corrected output; shapes of ``y`` (the array's output) and ``x`` (its input)."""
        view = self.product.output_channels
        corrected = y * view(self.scale) + view(self.offset)
        if self.down is not None:
            corrected = corrected + self._branch(x.to(corrected.dtype), self.down)
        return corrected.to(y.dtype)

    def _branch(self, x: Tensor, down: Tensor) -> Tensor:
        y = self.product.forward(x, down.to(x.dtype))
        if self.up is None:
            return y
        axis = channel_axis(self.product)
        return F.linear(y.movedim(axis, -1), self.up.to(x.dtype)).movedim(-1, axis)

    @property
    def parameters_and_macs(self) -> tuple[int, int]:
        """How many numbers it holds, and its multiply-accumulates at one position of the output."""
        held = sum(b.numel() for b in self.buffers())
        branch = [b for b in (self.down, self.up) if b is not None]
        return held, len(self.scale) + sum(b.numel() for b in branch)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("down", "up"):
            # Torch loads into a buffer that is there, and this one may not be.
            stored = state_dict.get(prefix + name)
            setattr(self, name, None if stored is None else torch.empty_like(stored))
        self.made_on, self.is_told = None, False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def can_branch(product: Product) -> bool:
    """Whether a product of low rank may run beside ``product``."""
    if isinstance(product, Convolution):
        return product.groups == 1 and not product.transposed
    return isinstance(product, Linear)


def channel_axis(product: Product) -> int:
    """Where the channels are in the product's output, counted from the end."""
    return -1 - product.dimensions if isinstance(product, Convolution) else -1


def make_side(
    op: Any, state_dict: Mapping[str, Any] | None = None, prefix: str = "", *_: Any
) -> None:
    """Give an analog operator a digital side if it has none; the identity, to begin with.

    As a hook before ``load_state_dict`` it does so only where the saved model had one.
    """
    if op.side is None and (state_dict is None or prefix + "side.scale" in state_dict):
        op.side = DigitalSide(op.product, op.array.shape, op.array.range.device)
        if state_dict is None and op.uses_chip:
            op.side.made_on = digest_of(op.array.origin)
