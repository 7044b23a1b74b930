"""Tiles: pieces add up to the whole, in im2col order, and counts agree with drawings."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from analogize.devices.tiles import count, pieces
from analogize.product import BatchedLinear, Convolution, Linear, Product

CONV = Convolution("conv2d", (1, 1), (1, 1), (1, 1))
GROUPED = Convolution("conv2d", (2, 1), (0, 1), (1, 2), groups=2)
DEPTHWISE = Convolution("conv2d", (1, 1), (1, 1), (1, 1), groups=32)
TRANSPOSED = Convolution("conv_transpose1d", (2,), (1,), (1,), True, (1,))
GROUPED_TRANSPOSED = Convolution("conv_transpose2d", (1, 2), (0, 0), (1, 1), True, (0, 0), 3)

CASES: list[tuple[Product, tuple[int, ...], tuple[int, ...]]] = [
    (Linear(), (3, 2, 11), (4, 11)),
    (Linear(), (3, 11), (11,)),
    (BatchedLinear((2,)), (5, 2, 3, 7), (2, 4, 7)),
    (CONV, (2, 5, 6, 6), (4, 5, 3, 3)),
    (CONV, (5, 6, 6), (4, 5, 3, 3)),
    (GROUPED, (2, 8, 7, 7), (6, 4, 3, 2)),
    (TRANSPOSED, (2, 5, 6), (5, 4, 3)),
    (GROUPED_TRANSPOSED, (2, 9, 4, 4), (9, 2, 2, 3)),
    (GROUPED_TRANSPOSED, (9, 4, 4), (9, 2, 2, 3)),
    (replace(GROUPED_TRANSPOSED, groups=2), (2, 8, 4, 4), (8, 2, 2, 3)),
]


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
@pytest.mark.parametrize(("product", "x", "w"), CASES)
def test_pieces_add_up(product: Product, x: tuple[int, ...], w: tuple[int, ...], rows: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(x, dtype=torch.float64)
    weights = torch.randn(w, dtype=torch.float64)
    cut = pieces(product, weights.shape, rows)

    parts: list[Tensor] = [product.forward(p.inputs(inputs), p.weights(weights)) for p in cut]

    assert len(cut) == -(-product.matrix(weights.shape)[1] // rows)
    assert_close(sum(parts), product.forward(inputs, weights))


def test_a_tile_holds_rows_in_im2col_order() -> None:
    """Rows 4 to 7 of a 2 x 2 convolution over 3 channels are the whole second channel."""
    product = Convolution("conv2d", (1, 1), (0, 0), (1, 1))
    weights = torch.arange(12.0).view(1, 3, 2, 2)
    by_four = pieces(product, weights.shape, 4)
    assert by_four[1].weights(weights).flatten().tolist() == [4, 5, 6, 7]
    assert all(piece.mask is None for piece in by_four), "whole channels need no mask"
    by_three = pieces(product, weights.shape, 3)
    assert by_three[1].weights(weights).flatten().tolist() == [0, 0, 0, 3, 4, 5, 0, 0]


@pytest.mark.parametrize(
    ("product", "w", "tiles"),
    [
        (Linear(), (10, 84), 1),
        (Linear(), (256, 256), 1),
        (Linear(), (257, 256), 2),
        (Linear(), (1000, 512), 2 * 4),
        (CONV, (64, 64, 3, 3), 3),  # 576 rows
        (CONV, (512, 512, 3, 3), 18 * 2),
        (DEPTHWISE, (32, 1, 3, 3), 2),  # 9 x 1 blocks, 28 on the diagonal of a tile
        (BatchedLinear((6,)), (6, 128, 60), 3),  # 2 blocks a tile: its columns are the fewer
        (BatchedLinear((6,)), (6, 60, 128), 3),
        (BatchedLinear((6,)), (6, 60, 200), 6),
        (GROUPED, (512, 100, 3, 2), 2 * 3 * 1),  # 600 rows, 256 columns a group
    ],
)
def test_count(product: Product, w: tuple[int, ...], tiles: int) -> None:
    assert count(product, torch.Size(w), 256, 256) == tiles


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
@pytest.mark.parametrize(("product", "x", "w"), CASES)
def test_what_is_added_lands_where_it_was_taken(
    product: Product, x: tuple[int, ...], w: tuple[int, ...], rows: int
) -> None:
    """Each weight belongs to one piece, and an input to as many as hold taps of it."""
    torch.manual_seed(0)
    inputs, weights = torch.randn(x), torch.randn(w)
    back, uses = torch.zeros(w), torch.zeros(x)
    taken = torch.zeros(x)
    for piece in pieces(product, weights.shape, rows):
        piece.add_weights(back, piece.weights(weights))
        piece.add_inputs(taken, piece.inputs(inputs))
        piece.add_inputs(uses, torch.ones_like(piece.inputs(inputs)))

    assert back.equal(weights)
    assert bool((uses >= 1).all())
    assert_close(taken, inputs * uses)
