"""The arithmetic of an operator whose tiles convert their own partial sums.

    y = s_y sum over tiles, input digits i and weight digits k of
            2^(i input_bits + k cell_bits) clamp(round(product(x_i, w_k) / y_step))

Without digits (no bit slicing, no bit-serial input) the sum is over tiles alone. Backward: as in
arithmetic.py, straight through every rounding, with clean weights, and zero where a tile's ADC
saturates. A full-range ADC, which digits need, does not saturate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from analogize.crossbar import straight
from analogize.crossbar.arithmetic import Dtypes, Stages, ended
from analogize.crossbar.array import WeightArray
from analogize.crossbar.learned import adc_gradient, dac_gradient, saturated, sums_rest
from analogize.crossbar.rounding import accumulate, convert
from analogize.crossbar.straight import (
    input_codes,
    inputs_of_gradient,
    memory_for_codes,
    stop_saturated,
)
from analogize.devices.signals import Part
from analogize.devices.slicing import digits_of, split
from analogize.devices.tiles import Piece, pieces
from analogize.product import Product
from analogize.quantize import Bound
from analogize.targets.spec import Target


@dataclass(frozen=True)
class Tiles:
    """How one operator's product is cut up.

    Attributes:
        pieces: one for each row of tiles.
        input_bits: bits of an input digit, or None for inputs applied at once.
        cell_bits: bits of a weight digit, or None for weights in single pairs; with digits, the
            weights that a pass uses are stacked along a first dimension.
    """

    pieces: tuple[Piece, ...]
    input_bits: int | None = None
    cell_bits: int | None = None

    def with_product(self, product: Product) -> Tiles:
        """The same tiles with another output padding."""
        return replace(self, pieces=tuple(replace(p, product=product) for p in self.pieces))

    @property
    def has_digits(self) -> bool:
        """Whether inputs or weights are cut into digits."""
        return self.input_bits is not None or self.cell_bits is not None

    def partial_sums(
        self, x: Tensor, weights: Tensor, stages: Stages
    ) -> Iterator[tuple[Bound, Tensor]]:
        """Every analog sum, with the digital factor it gets: (factor, accumulated units).

        Args:
            x: input codes.
            weights: weights in array units; the digits first where there are any.
            stages: the operator's fixed parts.
        """
        inputs = [(1.0, x)]
        if self.input_bits is not None:
            digits = digits_of(max(-stages.x_low, stages.x_high), self.input_bits)
            planes = split(x, self.input_bits, digits)
            inputs = [(2.0 ** (self.input_bits * i), plane) for i, plane in enumerate(planes)]
        slices = [(1.0, weights)]
        if self.cell_bits is not None:
            slices = [(2.0 ** (self.cell_bits * k), part) for k, part in enumerate(weights)]
        signals = stages.signals
        for tile, piece in enumerate(self.pieces):
            held = [(factor, piece.weights(part)) for factor, part in slices]
            for number, (x_factor, plane) in enumerate(inputs):
                applied = piece.inputs(plane)
                if signals is not None:
                    applied = signals.inputs(applied, Part(tile, 0, number))
                for digit, (w_factor, part) in enumerate(held):
                    acc = piece.product.forward(applied, part)
                    if stages.disturb is not None:
                        acc = stages.disturb(acc, applied, part, piece.product)
                    if signals is not None:
                        acc = signals.outputs(acc, Part(tile, digit, number))
                    factor: Bound = x_factor * w_factor
                    if stages.corrections is not None:
                        factor = stages.corrections[tile].to(acc.dtype) * factor
                    yield factor, acc

    def backward(
        self, grads: list[Tensor], x: Tensor, w: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients for x and w of the sum of all pieces, each None where ``needs`` is False.

        Explicit, as in product.py: Dynamo does not trace autograd inside a backward pass.

        Args:
            grads: the gradient of every piece's sum, in the order of ``pieces``.
            x: all inputs of the product.
            w: all its weights.
            needs: whether the gradient for x and that for w are needed.
        """
        grad_x = torch.zeros(x.shape, dtype=x.dtype, device=x.device) if needs[0] else None
        grad_w = torch.zeros(w.shape, dtype=w.dtype, device=w.device) if needs[1] else None
        for piece, grad in zip(self.pieces, grads, strict=True):
            part_x, part_w = piece.product.backward(grad, piece.inputs(x), piece.weights(w), needs)
            if grad_x is not None and part_x is not None:
                piece.add_inputs(grad_x, part_x)
            if grad_w is not None and part_w is not None:
                piece.add_weights(grad_w, part_w)
        return grad_x, grad_w


def cut(product: Product, shape: torch.Size, target: Target) -> Tiles | None:
    """The tiles that convert their own sums; None where one conversion does for the product."""
    size = target.array
    if size is None or not size.tiling or target.adc.bits is None:
        return None
    tiles = Tiles(pieces(product, shape, size.rows), size.input_bits, size.cell_bits)
    return tiles if len(tiles.pieces) > 1 or tiles.has_digits else None


def infer(x: Tensor, weights: Tensor, tiles: Tiles, stages: Stages, dtypes: Dtypes) -> Tensor:
    """The forward pass without a graph; ``weights`` are in array units."""
    return _convert(x, weights, tiles, stages, dtypes, None)


def _convert(
    x: Tensor,
    weights: Tensor,
    tiles: Tiles,
    stages: Stages,
    dtypes: Dtypes,
    excesses: list[Tensor] | None,
    adc: Tensor | None = None,
) -> Tensor:
    """The sum of all converted partial sums; appends where each saturates to ``excesses``."""
    assert stages.step is not None, "tiles matter only to an ADC"
    assert stages.y_scale is not None, "likewise"
    total: Tensor | None = None
    ends = stages.y_low, stages.y_high
    weights = weights.to(dtypes.product)
    with (
        memory_for_codes(x, stages, dtypes.product) as out,
        torch.autocast(x.device.type, enabled=False),
    ):
        codes = input_codes(x, stages, dtypes.product, out)
        for factor, acc in tiles.partial_sums(codes, weights, stages):
            change = None if excesses is None else sums_rest(acc, stages, adc)
            wants = excesses is not None and change is None
            if total is not None and not isinstance(factor, Tensor) and factor == 1:
                excess = accumulate(total, acc, stages.step, *ends, wants)
            else:
                part, excess = convert(acc, stages.step, *ends, None, dtypes.product, wants)
                if isinstance(factor, Tensor) or factor != 1:
                    part = part.mul_(factor)
                total = part if total is None else total.add_(part)
            excess = excess if wants else change
            if excesses is not None and excess is not None:
                excesses.append(excess)
    assert total is not None, "a product has at least one tile"
    total = total.mul_(stages.y_scale)
    if stages.spans is not None:
        total = stages.spans.rescale(total, x)
    return total.to(dtypes.output)


def linearized(
    x: Tensor,
    weight: Tensor,
    *,
    array: WeightArray,
    tiles: Tiles,
    stages: Stages,
    dtypes: Dtypes,
    beyond: Sequence[Tensor],
) -> Tensor:
    """As ``arithmetic.linearized``; ``beyond`` is that of every piece, or empty."""
    inputs, weights = straight.operands(x, weight, array, stages, dtypes.product)
    total: Tensor | None = None
    for tile, (piece, outside) in enumerate(zip_longest(tiles.pieces, beyond)):
        y = piece.product.forward(piece.inputs(inputs), piece.weights(weights))
        if stages.corrections is not None:
            y = y * stages.corrections[tile].to(y.dtype)
        y = y if outside is None else torch.where(outside != 0, 0.0, y)
        total = y if total is None else total + y
    assert total is not None, "a product has at least one tile"
    return total.to(dtypes.output)


def transformed(
    x: Tensor,
    weight: Tensor,
    used: Tensor,
    array: WeightArray,
    tiles: Tiles,
    stages: Stages,
    dtypes: Dtypes,
) -> Tensor:
    """As ``arithmetic.transformed``."""
    fixed = array, tiles, stages, dtypes
    y, *beyond = TiledDifferentiable.forward(x.detach(), weight.detach(), None, None, used, *fixed)
    made = linearized(
        x, weight, array=array, tiles=tiles, stages=stages, dtypes=dtypes, beyond=beyond
    )
    return straight.through(y, made)


class TiledDifferentiable(torch.autograd.Function):
    """The forward pass with its explicit backward; returns (y, where each tile saturates...).

    ``apply(x, weight, dac, adc, used, array, tiles, stages, dtypes)``, as
    ``arithmetic.Differentiable``.
    """

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        dac: Tensor | None,
        adc: Tensor | None,
        used: Tensor,
        array: WeightArray,
        tiles: Tiles,
        stages: Stages,
        dtypes: Dtypes,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        excesses: list[Tensor] | None = None if tiles.has_digits else []
        y = _convert(x, used, tiles, stages, dtypes, excesses, adc)
        return y, *(excesses or [])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the operands, which the digital operator would keep too."""
        x, weight, dac, adc, _, ctx.array, ctx.tiles, ctx.stages, ctx.dtypes = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, dac, adc, *output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight and the ranges."""
        if grad is None:
            return (None,) * 9
        # Once: a checkpoint recomputes them for a single reading.
        saved = ctx.saved_tensors
        if not straight.is_wanted():
            return *_explicit(ctx, saved, grad), None, None, None, None, None
        adc, *excesses = saved[3:]
        stages: Stages = ctx.stages
        beyond = [saturated(each, stages, adc) for each in excesses]
        made = partial(linearized, array=ctx.array, tiles=ctx.tiles, stages=stages)
        found = straight.gradients(
            ctx, saved, grad, partial(made, dtypes=ctx.dtypes, beyond=beyond)
        )
        ranges: tuple[Tensor | None, ...] = (None, None)
        if any(ctx.needs_input_grad[2:4]):
            with torch.no_grad():
                ranges = _explicit(ctx, saved, grad.detach().clone())[2:]
        return *found, *ranges, None, None, None, None, None


def _explicit(ctx: Any, saved: tuple[Any, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients for x, weight and the ranges, once."""
    x, weight, dac, adc, *excesses = saved
    stages: Stages = ctx.stages
    dtype, needs = ctx.dtypes.product, ctx.needs_input_grad
    grad, grad_dac, grad_adc = grad.to(dtype), None, None
    if needs[3] and excesses:
        product = ctx.tiles.pieces[0].product
        grad_adc = adc_gradient(adc, grad, torch.stack(excesses), x, product, stages)
    each = [grad] * len(ctx.tiles.pieces)
    if stages.corrections is not None:
        each = [grad * factor.to(dtype) for factor in stages.corrections]
    grads = [
        stop_saturated(g, saturated(e, stages, adc)) for g, e in zip(each, excesses, strict=False)
    ]
    with memory_for_codes(x, stages, dtype) as out:
        grad_x, grad_w = ctx.tiles.backward(
            grads or each,
            inputs_of_gradient(x, stages, dtype, out),
            ctx.array.real(weight).to(dtype),
            (needs[0] or needs[2], needs[1]),
        )
    if needs[2]:
        grad_dac = dac_gradient(dac, grad_x, x, stages)
    return *ended(ctx, saved, grad_x, grad_w), grad_dac, grad_adc
