from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from analogize.product import (
    BatchedLinear,
    Convolution,
    Linear,
    Product,
    columns,
    from_channels,
    output_channels,
    per_channel,
)

CONVOLUTIONS = [
    (nn.Conv1d, (2, 4, 9), {"stride": 2, "padding": 1}),
    (nn.Conv2d, (2, 4, 7, 8), {"dilation": (1, 2), "padding": (0, 2)}),
    (nn.Conv2d, (2, 4, 7, 8), {"groups": 2}),
    (nn.Conv2d, (4, 7, 8), {"padding": 1}),
    (nn.Conv3d, (2, 4, 5, 5, 5), {"stride": (1, 2, 1)}),
    (nn.ConvTranspose1d, (2, 4, 5), {"stride": 3, "output_padding": 2}),
    (nn.ConvTranspose2d, (2, 4, 5, 5), {"stride": 2, "padding": 1, "groups": 2}),
    (nn.ConvTranspose3d, (1, 4, 3, 3, 3), {"dilation": 2}),
]


def describe(layer: nn.Module) -> Convolution:
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return Convolution(
        "conv",
        layer.stride,
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,
        layer.transposed,
        layer.output_padding,
        layer.groups,
    )


def check_gradients(product: Product, x: Tensor, w: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(product.forward(x, w), y)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, w), grad)
    actual = product.backward(grad, x.detach(), w.detach(), (True, True))
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert product.backward(grad, x, w, (False, True))[0] is None
    assert product.backward(grad, x, w, (True, False))[1] is None


@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
def test_convolutions_agree_with_autograd(
    kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, object]
) -> None:
    layer = kind(4, 6, 3, bias=False, **options)
    x = torch.randn(shape, requires_grad=True)
    check_gradients(describe(layer), x, layer.weight, layer(x))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear_agrees_with_autograd(shape: tuple[int, ...]) -> None:
    x, w = torch.randn(shape, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    check_gradients(Linear(), x, w, F.linear(x, w))


def test_linear_takes_a_vector_of_weights() -> None:
    x, w = torch.randn(3, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    check_gradients(Linear(), x, w, F.linear(x, w))


@pytest.mark.parametrize(("x", "w"), [((2, 3, 5), (2, 4, 5)), ((3, 5), (2, 4, 5))])
def test_products_side_by_side_agree_with_autograd(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """Inputs may be shared by all of them."""
    inputs, weights = torch.randn(x, requires_grad=True), torch.randn(w, requires_grad=True)
    check_gradients(BatchedLinear(w[:-2]), inputs, weights, torch.matmul(inputs, weights.mT))


@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
def test_channel_views_scale_whole_output_channels(
    kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, object]
) -> None:
    layer = kind(4, 6, 3, bias=False, **options)
    product, x = describe(layer), torch.randn(shape)
    gains = torch.arange(1.0, 7.0)
    scaled = product.forward(x, layer.weight * product.channels(gains, layer.weight.shape))
    expected = layer(x) * product.output_channels(gains)
    torch.testing.assert_close(scaled, expected)
    assert output_channels(product, layer.weight.shape) == 6
    rows = per_channel(product, layer.weight * product.channels(gains, layer.weight.shape))
    torch.testing.assert_close(rows, per_channel(product, layer.weight) * gains[:, None])


def test_the_matrix_follows_im2col() -> None:
    assert Linear().matrix(torch.Size((10, 7))) == (1, 7, 10)
    assert Linear().matrix(torch.Size((7,))) == (1, 7, 1)
    assert BatchedLinear((2, 3)).matrix(torch.Size((2, 3, 10, 7))) == (6, 7, 10)
    conv = Convolution("conv2d", (1, 1), (0, 0), (1, 1), groups=2)
    assert conv.matrix(torch.Size((6, 4, 3, 3))) == (2, 36, 3)
    transposed = Convolution("conv", (1,), (0,), (1,), transposed=True, groups=2)
    assert transposed.matrix(torch.Size((8, 3, 5))) == (2, 20, 3)


@given(
    leading=st.lists(st.integers(1, 3), max_size=2),
    dimensions=st.integers(1, 3),
    channels=st.integers(1, 4),
)
def test_columns_of_a_convolution_are_its_channels(
    leading: list[int], dimensions: int, channels: int
) -> None:
    product = Convolution("conv", *[(1,) * dimensions] * 3, False, (0,) * dimensions, 1)
    space = tuple(range(2, 2 + dimensions))
    y = torch.arange(math.prod((*leading, channels, *space))).view(*leading, channels, *space)
    found = columns(product, y, channels)
    for channel in range(channels):
        one = y.select(len(leading), channel)
        assert torch.equal(found[:, channel], one.flatten())


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("leading", [(), (5,)])
def test_columns_of_products_side_by_side_are_those_of_every_block(
    batch: tuple[int, ...], leading: tuple[int, ...]
) -> None:
    product, rows, outputs = BatchedLinear(batch), 4, 2
    y = torch.randn(*leading, *batch, rows, outputs)
    found = columns(product, y, math.prod(batch) * outputs)
    assert found.shape == (math.prod(leading) * rows, math.prod(batch) * outputs)
    blocks = y.view(-1, math.prod(batch), rows, outputs)
    for block in range(math.prod(batch)):
        expected = blocks[:, block].reshape(-1, outputs)
        assert torch.equal(found[:, block * outputs : (block + 1) * outputs], expected)


LAYOUTS: list[tuple[Product, tuple[int, ...]]] = [
    (Linear(), (4, 6)),
    (Linear(), (6,)),
    (BatchedLinear((2, 3)), (2, 3, 4, 5)),
    *[
        (Convolution("conv2d", (1, 1), (0, 0), (1, 1), turned, (0, 0), groups), (6, 4, 3, 2))
        for turned in (False, True)
        for groups in (1, 2, 3)
    ],
]


@pytest.mark.parametrize(("product", "shape"), LAYOUTS)
def test_weights_a_channel_are_put_back_where_they_were_taken(
    product: Product, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape)
    rows = per_channel(product, weight)
    assert rows.shape[0] == output_channels(product, weight.shape)
    assert from_channels(product, rows, weight.shape).equal(weight)
    numbers = torch.arange(float(len(rows)))
    spread = from_channels(product, numbers[:, None].expand_as(rows), weight.shape)
    assert spread.equal(product.channels(numbers, weight.shape).expand(shape))


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_gains_a_channel_scale_the_output_as_they_scale_the_weights(batch: tuple[int, ...]) -> None:
    product = BatchedLinear(batch)
    x, w = torch.randn(*batch, 5, 7), torch.randn(*batch, 4, 7)
    gains = torch.randn(math.prod(batch) * 4)
    scaled = product.forward(x, w * product.channels(gains, w.shape))
    torch.testing.assert_close(scaled, product.forward(x, w) * product.output_channels(gains))


def test_columns_of_a_linear_product_are_its_last_dimension() -> None:
    y = torch.randn(2, 3, 5)
    assert columns(Linear(), y, 5).equal(y.view(6, 5))
