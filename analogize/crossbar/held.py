"""Weights as an array holds them, without noise: clipped, quantized, cut into digits.

The array works in *array units*: zero-centred integer codes where some converter has bits, so that
accumulation is exact; plain weight units where the array is the only stage (then no activation has
to be rescaled). A stage without bits has scale 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analogize.crossbar.converter import FixedRange
from analogize.crossbar.rounding import quantized
from analogize.crossbar.weight_range import find_range
from analogize.devices.cells import full_scale
from analogize.devices.slicing import combine, digits_of, split
from analogize.product import Product
from analogize.quantize import Bound, Grid, clamp, to_codes
from analogize.targets import spec

aten = torch.ops.aten


class HeldWeights(FixedRange):
    """The range of one array's weights, the grid on it, and the digits that cells hold.

    Attributes:
        name: the region's name, from which its random seeds derive.
        limits: (W_min, W_max), viewed against the weights, or None without clipping.
        folded: True if the array works in weight units, False for integer codes.
        cell_bits: bits of a weight that one pair of cells holds, or None for all of them.
        ends: the smallest and largest code of a clipped weight, where one range holds for all
            channels; None otherwise.
        step: the grid's step as a number, likewise.
    """

    def __init__(
        self, weight: Tensor, product: Product, target: spec.Target, name: str, folded: bool
    ) -> None:
        self.product, self.name, self.folded = product, name, folded
        self.shape = weight.shape
        self.settings = settings = target.weights
        ends = find_range(weight, product, settings, name)
        super().__init__(ends, settings.bits, settings.grid, matters=settings.range is not None)
        self.cell_bits = None if target.array is None else target.array.cell_bits

    @property
    def is_pending(self) -> bool:
        """Whether the range waits for weights, after a rewriting on the meta device."""
        wanted = self.settings.range is not None
        return wanted and (self.range.is_meta or bool(self.range.isnan().any()))

    def settle(self, weight: Tensor) -> None:
        """Find the range from ``weight`` if it is pending; on the meta device it stays so.

        Raises:
            PassError: the weights give no range.
        """
        if self.is_pending and not weight.is_meta:
            self.range = find_range(weight, self.product, self.settings, self.name).float()
            self.refresh()

    @property
    def is_known(self) -> bool:
        """Whether the range is a finite one."""
        return self.range.numel() > 0 and super().is_known

    @property
    def clips(self) -> bool:
        """Whether the weights are confined to a range at all."""
        return self.limits is not None

    def refresh(self) -> None:
        """Lay grid and limits anew from the range buffer."""
        super().refresh()
        self.limits: tuple[Bound, Bound] | None = None
        self._edges: tuple[float, ...] | None = None
        self.ends: tuple[float, float] | None = None
        self.step: float | None = None
        if self.range.is_meta or not self.is_known:
            return
        if self.range.ndim == 1:
            low, high = self.range.tolist()
            self.limits = low, high
            # hardtanh_backward excludes its limits; the next float beyond them includes ours.
            outward = torch.tensor([-torch.inf, torch.inf])
            self._edges = tuple(torch.nextafter(self.range.cpu(), outward).tolist())
            if self.scale is not None:
                # Rounding is monotone, so the clipped ends' codes bound all others.
                first, last = (self.range / self.scale).round().tolist()
                self.ends = max(first, float(self.low)), min(last, float(self.high))
                self.step = float(self.scale)
        else:
            self.limits = self._view(self.range[0]), self._view(self.range[1])

    def _view(self, values: Bound) -> Bound:
        """One value an output channel, viewed against the weights; a single value as it is."""
        if isinstance(values, Tensor) and values.ndim:
            return self.product.channels(values, self.shape)
        return values

    @property
    def grid(self) -> Grid | None:
        """The grid on the range, viewed against the weights, or None without bits."""
        if self.scale is None:
            return None
        scale = (
            self.scale if self.scale.ndim == 0 else self.product.channels(self.scale, self.shape)
        )
        return Grid(scale, self._view(self.low), self._view(self.high))

    @property
    def output_scale(self) -> Tensor | None:
        """Weight units in one array unit, viewed against the product's output; None for 1."""
        if self.scale is None or self.folded:
            return None
        return self.scale if self.scale.ndim == 0 else self.product.output_channels(self.scale)

    def clean(self, weight: Tensor, beside: Callable[[Bound], Bound] | None = None) -> Tensor:
        """Clipped and quantized weights in array units, without noise; not differentiable.

        Args:
            weight: all weights, or a block of them.
            beside: takes of what is viewed against all weights what lies beside the block.
        """
        if self.limits is None:
            return weight
        if self.ends is not None and self.scale is not None and weight.dtype == torch.float32:
            gain = self.scale if self.folded else None
            return quantized(weight, self.scale, *self.ends, gain, weight.dtype)
        limits, grid = self.limits, self.grid
        if beside is not None:
            limits = beside(limits[0]), beside(limits[1])
        clipped = clamp(weight, *limits)
        if grid is None:
            return clipped
        if beside is not None:
            scale = beside(grid.scale)
            assert isinstance(scale, Tensor), "a part of a tensor is one"
            grid = Grid(scale, beside(grid.low), beside(grid.high))
        codes = to_codes(clipped, grid)
        return codes.mul_(grid.scale) if self.folded else codes

    def real(self, weight: Tensor) -> Tensor:
        """Clipped and quantized weights in weight units, without noise; not differentiable."""
        if self.ends is not None and self.scale is not None and weight.dtype == torch.float32:
            return quantized(weight, self.scale, *self.ends, self.scale, weight.dtype)
        clean, grid = self.clean(weight), self.grid
        return clean if grid is None or self.folded else clean.mul_(grid.scale)

    def mask_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Zero a gradient where a weight lies outside the range: the derivative of the clipping.

        A weight on either end of the range counts as inside, so that projected weights can return.
        """
        if self.limits is None:
            return grad
        if self._edges is not None and weight.dtype == torch.float32:
            return aten.hardtanh_backward(grad, weight, *self._edges)  # type: ignore[no-any-return]
        low, high = self.limits
        return grad * ((weight >= low) & (weight <= high))

    def digits(self, clean: Tensor) -> Tensor:
        """Clean codes as the digits that cells hold, stacked; themselves without bit slicing."""
        if self.cell_bits is None:
            return clean
        return split(clean, self.cell_bits, self.cells_a_weight)

    def whole(self, weights: Tensor) -> Tensor:
        """The weights that stacked digits stand for; themselves without bit slicing."""
        return weights if self.cell_bits is None else combine(weights, self.cell_bits)

    @property
    def cells_a_weight(self) -> int:
        """How many digits a weight has in the array; 1 without bit slicing."""
        return 1 if self.cell_bits is None else digits_of(self._largest_code, self.cell_bits)

    @property
    def _largest_code(self) -> float:
        ends = [torch.as_tensor(end).abs().max() for end in (self.low, self.high)]
        return float(max(ends))

    def span(self) -> tuple[Bound, Bound]:
        """W_min and W_max in array units; of a digit, where cells hold digits."""
        if self.cell_bits is not None:
            largest = min(2.0**self.cell_bits - 1, self._largest_code)
            return -largest, largest
        grid = self.grid
        if grid is None:
            return self.limits or (float("nan"), float("nan"))
        return grid.range if self.folded else (grid.low, grid.high)

    @property
    def full(self) -> Bound:
        """The end of the range that is farther from zero, in array units, against the weights."""
        return full_scale(*self.span())

    @property
    def width(self) -> Bound:
        """W_max - W_min in array units, viewed against the product's output."""
        if self.cell_bits is not None:
            return 2 * float(self.full)
        if self.scale is None:
            width: Bound = self.range[1] - self.range[0]
        else:
            width = (self.high - self.low) * (self.scale if self.folded else 1.0)
        if isinstance(width, Tensor) and width.ndim:
            return self.product.output_channels(width)
        return width

    def extra_repr(self) -> str:
        """Shape, bits and range, for ``print(model)``."""
        bits = "no bits" if self.bits is None else f"{self.bits} bits"
        return f"{tuple(self.shape)}, {bits}, {self._described}"

    @property
    def _described(self) -> str:
        if self.settings.range is None:
            return "no range"
        if self.is_pending:
            return "a range that waits for weights"
        if self.range.ndim > 1:
            return "per-channel range"
        low, high = self.range.tolist()
        return f"[{low:.4g}, {high:.4g}]"
