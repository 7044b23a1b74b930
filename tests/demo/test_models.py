"""The reference networks: sizes of the literature, whole traces, shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from analogize.demo.models import (
    CaffeLeNet,
    DigitsNet,
    LeNet5,
    cifar_resnet18_v2,
    cifar_resnet32,
)
from analogize.model.counting import census

# LeNet-5: 156 + 2,416 + 48,120 + 10,164 + 850. Caffe's: the sum
# beside it, from its prototxt. ResNet-32: "0.46M" in He et al. 2015, table 6.
# ResNet-18 v2: 11,171,146 as the pre-activation CIFAR version is usually counted, plus the closing
# BatchNorm's 1,024 that He et al. 2016 put before the pooling.
NETWORKS: list[tuple[Callable[..., nn.Module], tuple[int, int, int], int]] = [
    (LeNet5, (1, 28, 28), 61_706),
    (CaffeLeNet, (1, 28, 28), 520 + 25_050 + 400_500 + 5_010),
    (DigitsNet, (1, 8, 8), 160 + 4_640 + 32_832 + 650),
    (cifar_resnet32, (3, 32, 32), 464_154),
    (cifar_resnet18_v2, (3, 32, 32), 11_171_146 + 1_024),
]


@pytest.mark.parametrize(("factory", "shape", "count"), NETWORKS)
def test_parameter_count_is_the_literatures(
    factory: Callable[..., nn.Module], shape: tuple[int, int, int], count: int
) -> None:
    assert sum(parameter.numel() for parameter in factory().parameters()) == count


@pytest.mark.parametrize(("factory", "shape", "count"), NETWORKS)
def test_traces_whole_and_keeps_its_function(
    factory: Callable[..., nn.Module], shape: tuple[int, int, int], count: int
) -> None:
    model = factory().eval()
    traced = fx.symbolic_trace(model)
    inputs = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), model(inputs), rtol=0, atol=0)


@pytest.mark.parametrize(("factory", "shape", "count"), NETWORKS)
def test_num_classes_sets_the_number_of_scores(
    factory: Callable[..., nn.Module], shape: tuple[int, int, int], count: int
) -> None:
    with torch.no_grad():
        scores = factory(num_classes=7).eval()(torch.randn(3, *shape))
    assert scores.shape == (3, 7)


def test_depths_are_32_and_18_weight_layers() -> None:
    def layers(model: nn.Module) -> int:
        weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return sum(
            1 for m in weighted if not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
        )

    assert layers(cifar_resnet32()) == 32
    assert layers(cifar_resnet18_v2()) == 18


def test_half_width_leaves_a_quarter_of_the_multiply_accumulates() -> None:
    whole, half = cifar_resnet18_v2().eval(), cifar_resnet18_v2(width=32).eval()

    def macs(model: nn.Module) -> int:
        return census(model, torch.randn(1, 3, 32, 32)).macs

    # Of the first convolution and of the head only one side is halved, of all others both.
    ends = 3 * 64 * 9 * 32 * 32 + 512 * 10
    assert macs(half) == (macs(whole) - ends) / 4 + ends / 2


def test_option_a_shortcut_subsamples_and_pads_with_zeros() -> None:
    block = cifar_resnet32().layer2[0].eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    inputs = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        outputs = block(inputs)
    torch.testing.assert_close(outputs[:, :16], inputs[:, :, ::2, ::2], rtol=0, atol=0)
    assert outputs[:, 16:].count_nonzero() == 0
