"""One analog call whose tiles convert their own partial sums, as standard ONNX operators.

What crossbar/tiled.py computes, in the same order, so that the outputs are equal bit for bit::

    total = sum over rows of tiles i, input digits j and weight digits k of
            2^(j input_bits + k cell_bits) ADC(product(x_ij, w_ik))

Digits of inputs are made in the graph; so are those of clean weights, which the file keeps whole.
The cells of a programmed chip hold noisy digits, and the file keeps each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch

from analogize.crossbar.tiled import Tiles
from analogize.devices.slicing import digits_of
from analogize.devices.tiles import Piece
from analogize.onnx.writing.body import Body, array
from analogize.onnx.writing.draws import noisy_product, noisy_weights
from analogize.onnx.writing.plan import RegionPlan
from analogize.onnx.writing.stages import convert, multiply
from analogize.product import Convolution, Product


@dataclass(frozen=True)
class _Digit:
    """One digit of inputs or weights: how names tell it apart, and what it counts."""

    suffix: str
    factor: float
    value: ir.Value


def tiled_sum(
    body: Body,
    plan: RegionPlan,
    tiles: Tiles,
    x: ir.Value,
    weight: ir.Value,
    rank: int,
    output_padding: tuple[int, ...] | None,
) -> ir.Value:
    """The digital sum of all converted partial sums, in codes of the ADC.

    Args:
        body: receives the nodes.
        plan: the region.
        tiles: how its product is cut up.
        x: input codes, with a batch dimension where it is a convolution.
        weight: weights in array units; a programmed chip's digits along a further dimension.
        rank: number of dimensions of ``x``.
        output_padding: of this call, if it is not the product's own.
    """
    planes = _inputs(body, plan, tiles, x)
    held = _weights(body, plan, tiles, weight)
    total: ir.Value | None = None
    for index, piece in enumerate(tiles.pieces):
        end = f"tile{index}"
        parts = [_part_of_weights(body, plan, piece, digit, end, index) for digit in held]
        for plane in planes:
            applied = _part_of_inputs(body, plan, piece, plane, end, rank)
            for number, (digit, (part, shape)) in enumerate(zip(held, parts, strict=True)):
                name = f"{end}{plane.suffix}{digit.suffix}"
                acc = multiply(body, plan, applied, part, output_padding, ("mac", name))
                variance = index * len(held) + number
                where = f"{name}/", variance
                operands = acc, applied, part, shape, output_padding
                acc = noisy_product(body, plan, *operands, *where)
                converted = convert(body, plan, acc, f"{name}/")
                total = _add(body, total, converted, plane.factor * digit.factor, name)
    assert total is not None, "a product has at least one tile"
    return total


def _add(body: Body, total: ir.Value | None, part: ir.Value, factor: float, name: str) -> ir.Value:
    if factor != 1:
        value = body.number(f"sum/factor{factor:.0f}", factor)
        part = body.add("sum", f"{name}/shift", "Mul", [part, value])
    return part if total is None else body.add("sum", name, "Add", [total, part])


def _inputs(body: Body, plan: RegionPlan, tiles: Tiles, x: ir.Value) -> list[_Digit]:
    if tiles.input_bits is None:
        return [_Digit("", 1.0, x)]
    stages = plan.op._stages
    count = digits_of(max(-stages.x_low, stages.x_high), tiles.input_bits)
    return _split(body, "dac", "x", x, tiles.input_bits, count)


def _weights(body: Body, plan: RegionPlan, tiles: Tiles, weight: ir.Value) -> list[_Digit]:
    if tiles.cell_bits is None:
        return [_Digit("", 1.0, noisy_weights(body, plan, weight))]
    count = plan.op.array.cells_a_weight
    if plan.kind != "programmed":
        digits = _split(body, "weight", "w", weight, tiles.cell_bits, count)
        return [
            _Digit(d.suffix, d.factor, noisy_weights(body, plan, d.value, k))
            for k, d in enumerate(digits)
        ]
    return [
        _Digit(
            f"_w{k}",
            2.0 ** (tiles.cell_bits * k),
            body.add("weight", f"digit{k}", "Gather", [weight, body.integers(k)], {"axis": 0}),
        )
        for k in range(count)
    ]


def _split(
    body: Body, role: str, letter: str, codes: ir.Value, bits: int, count: int
) -> list[_Digit]:
    """The digits of integer codes, each with the code's sign (devices/slicing.py)."""
    base = body.number(f"{role}/base", 2.0**bits)
    sign = body.add(role, "sign", "Sign", [codes])
    rest = body.add(role, "magnitude", "Abs", [codes])
    found = []
    for number in range(count):
        end = f"digit{number}"
        above = body.add(role, f"{end}/divide", "Div", [rest, base])
        above = body.add(role, f"{end}/floor", "Floor", [above])
        whole = body.add(role, f"{end}/above", "Mul", [above, base])
        digit = body.add(role, f"{end}/below", "Sub", [rest, whole])
        digit = body.add(role, end, "Mul", [digit, sign])
        found.append(_Digit(f"_{letter}{number}", 2.0 ** (bits * number), digit))
        rest = above
    return found


def _part_of_inputs(
    body: Body, plan: RegionPlan, piece: Piece, plane: _Digit, end: str, rank: int
) -> ir.Value:
    product, total = plan.op.product, _inputs_a_group(plan.op.product, plan.op.array.shape)
    axis = 1 if isinstance(product, Convolution) else rank - 1
    groups = product.groups if isinstance(product, Convolution) else 1
    where = "dac", f"{end}{plane.suffix}"
    return _take(body, where, plane.value, axis, _rows(piece, total, groups), total * groups)


def _part_of_weights(
    body: Body, plan: RegionPlan, piece: Piece, digit: _Digit, end: str, index: int
) -> tuple[ir.Value, torch.Size]:
    """The piece's weights, and their shape in torch."""
    product, shape = plan.op.product, plan.op.array.shape
    total, size = _inputs_a_group(product, shape), piece.last - piece.first
    if not isinstance(product, Convolution):
        axis, groups, torch_axis = max(len(shape) - 2, 0), 1, len(shape) - 1
    elif product.transposed:
        axis, groups, torch_axis = 0, product.groups, 0
    else:
        axis, groups, torch_axis = 1, 1, 1
    where = "weight", f"{end}{digit.suffix}"
    rows = _rows(piece, total, groups)
    part = _take(body, where, digit.value, axis, rows, total * groups)
    if piece.mask is not None:
        mask = body.constant(f"weight_mask/tile{index}", array(piece.mask))
        part = body.add("weight", f"{end}{digit.suffix}/mask", "Mul", [part, mask])
    cut = list(shape)
    cut[torch_axis] = size * groups
    return part, torch.Size(cut)


def _inputs_a_group(product: Product, shape: torch.Size) -> int:
    """How many inputs (channels) one sum has."""
    if not isinstance(product, Convolution):
        return shape[-1]
    return shape[0] // product.groups if product.transposed else shape[1]


def _rows(piece: Piece, total: int, groups: int) -> tuple[int, ...]:
    """The piece's places along the axis of inputs, group by group."""
    return tuple(g * total + i for g in range(groups) for i in range(piece.first, piece.last))


def _take(
    body: Body,
    where: tuple[str, str],
    value: ir.Value,
    axis: int,
    rows: tuple[int, ...],
    total: int,
) -> ir.Value:
    if len(rows) == total:
        return value
    first, last = rows[0], rows[-1] + 1
    if last - first == len(rows):
        ends = [body.integers((i,)) for i in (first, last, axis)]
        return body.add(*where, "Slice", [value, *ends])
    return body.add(*where, "Gather", [value, body.integers(rows)], {"axis": axis})
