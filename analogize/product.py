"""The matrix products that an array can hold: forward and explicit backward.

One description covers linear layers and convolutions. The backward pass is explicit because an
analog operator multiplies by noisy weights on the way forward and by clean ones on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@dataclass(frozen=True)
class Linear:
    """``y[..., n] = sum_k x[..., k] w[n, k]``."""

    operator: str = "linear"

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Shapes: x (..., K), w (N, K) or (K,); returns (..., N) or (...)."""
        return F.linear(x, w)

    def backward(
        self, grad: Tensor, x: Tensor, w: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients for x and w, each None where ``needs`` is False."""
        if w.ndim == 1:
            grad, w_matrix = grad.unsqueeze(-1), w.unsqueeze(0)
        else:
            w_matrix = w
        grad_x = grad @ w_matrix if needs[0] else None
        if not needs[1]:
            return grad_x, None
        rows = grad.reshape(-1, grad.shape[-1])
        grad_w = rows.t() @ x.reshape(-1, x.shape[-1])
        return grad_x, grad_w.view_as(w)

    def matrix(self, shape: torch.Size) -> tuple[int, int, int]:
        """Blocks of the array's matrix: (groups, rows K, columns N)."""
        return 1, shape[-1], shape[0] if len(shape) > 1 else 1

    def channels(self, values: Tensor, shape: torch.Size) -> Tensor:
        """View one value an output channel, shape (N,), against weights of ``shape``."""
        return values.view(-1, *[1] * (len(shape) - 1)) if len(shape) > 1 else values.view(())

    def output_channels(self, values: Tensor) -> Tensor:
        """View one value an output channel against the product's output."""
        return values


@dataclass(frozen=True)
class Convolution:
    """A convolution over 1 to 3 spatial dimensions, transposed or not, padded with zeros."""

    operator: str
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    output_padding: tuple[int, ...] = (0,)
    groups: int = 1

    @property
    def dimensions(self) -> int:
        """Number of spatial dimensions."""
        return len(self.stride)

    def with_output_padding(self, output_padding: int | Sequence[int]) -> Convolution:
        """The same product with another ``output_padding``: one value, or one a dimension."""
        given = [output_padding] if isinstance(output_padding, int) else output_padding
        values = tuple(given)
        every = values * self.dimensions if len(values) == 1 else values
        return replace(self, output_padding=every)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Shapes: x (B, C_in, *spatial) or unbatched; w as in torch; returns (B, C_out, *out)."""
        if x.ndim == self.dimensions + 1:
            return self.forward(x.unsqueeze(0), w).squeeze(0)
        return torch.convolution(
            x,
            w,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def backward(
        self, grad: Tensor, x: Tensor, w: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients for x and w, each None where ``needs`` is False."""
        if x.ndim == self.dimensions + 1:
            grad_x, grad_w = self.backward(grad.unsqueeze(0), x.unsqueeze(0), w, needs)
            return None if grad_x is None else grad_x.squeeze(0), grad_w
        grad_x, grad_w, _ = aten.convolution_backward(
            grad,
            x,
            w,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            (needs[0], needs[1], False),
        )
        return grad_x, grad_w

    def matrix(self, shape: torch.Size) -> tuple[int, int, int]:
        """Blocks of the array's matrix in im2col order: (groups, rows K, columns N)."""
        kernel = prod(shape[2:])
        if self.transposed:
            return self.groups, shape[0] // self.groups * kernel, shape[1]
        return self.groups, shape[1] * kernel, shape[0] // self.groups

    def channels(self, values: Tensor, shape: torch.Size) -> Tensor:
        """View one value an output channel, shape (C_out,), against weights of ``shape``."""
        ones = [1] * self.dimensions
        if not self.transposed:
            return values.view(-1, 1, *ones)
        inputs = shape[0] // self.groups
        grouped = values.view(self.groups, 1, -1).expand(-1, inputs, -1)
        return grouped.reshape(shape[0], -1, *ones)

    def output_channels(self, values: Tensor) -> Tensor:
        """View one value an output channel against the product's output."""
        return values.view(-1, *[1] * self.dimensions)


@dataclass(frozen=True)
class BatchedLinear:
    """Several linear products at once: ``y[..., g, t, n] = sum_k x[..., g, t, k] w[g, n, k]``.

    Attributes:
        batch: the leading dimensions of the weights, one block of the array for each index.
    """

    batch: tuple[int, ...]
    operator: str = "batched_linear"

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Shapes: x (..., T, K), w (*batch, N, K), leading ones broadcast; returns (..., T, N)."""
        return torch.matmul(x, w.mT)

    def backward(
        self, grad: Tensor, x: Tensor, w: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients for x and w, each None where ``needs`` is False."""
        grad_x = (grad @ w).sum_to_size(x.shape) if needs[0] else None
        grad_w = (grad.mT @ x).sum_to_size(w.shape) if needs[1] else None
        return grad_x, grad_w

    def matrix(self, shape: torch.Size) -> tuple[int, int, int]:
        """Blocks of the array's matrix: (groups, rows K, columns N)."""
        return prod(self.batch), shape[-1], shape[-2]

    def channels(self, values: Tensor, shape: torch.Size) -> Tensor:
        """View one value an output channel, shape (groups * N,), against weights of ``shape``."""
        return values.view(*self.batch, -1, 1)

    def output_channels(self, values: Tensor) -> Tensor:
        """View one value an output channel against the product's output."""
        return values.view(*self.batch, 1, -1)


Product = Linear | Convolution | BatchedLinear


def output_channels(product: Product, shape: torch.Size) -> int:
    """How many output channels weights of ``shape`` have."""
    groups, _, columns = product.matrix(shape)
    return groups * columns


def per_channel(product: Product, weight: Tensor) -> Tensor:
    """All weights of each output channel as a row: shape (channels, weights a channel)."""
    if isinstance(product, Convolution) and product.transposed:
        groups, columns = product.groups, weight.shape[1]
        blocks = weight.reshape(groups, weight.shape[0] // groups, columns, -1)
        return blocks.transpose(1, 2).reshape(groups * columns, -1)
    return weight.reshape(output_channels(product, weight.shape), -1)


def from_channels(product: Product, rows: Tensor, shape: torch.Size) -> Tensor:
    """Weights of ``shape`` from the weights of each output channel; inverse of ``per_channel``."""
    if isinstance(product, Convolution) and product.transposed:
        groups, columns = product.groups, shape[1]
        blocks = rows.reshape(groups, columns, shape[0] // groups, -1)
        return blocks.transpose(1, 2).reshape(shape)
    return rows.reshape(shape)


def columns(product: Product, y: Tensor, channels: int) -> Tensor:
    """What leaves the product, an output channel a column: shape (vectors, channels).

    Shapes: ``y`` as the product's output, with any further leading dimensions.
    """
    if isinstance(product, Convolution):
        return y.movedim(-product.dimensions - 1, -1).reshape(-1, channels)
    if isinstance(product, BatchedLinear):
        batch = len(product.batch)
        y = y.movedim(-2, -2 - batch)
        return y.reshape(-1, channels)
    return y.reshape(-1, channels)
