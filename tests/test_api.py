"""What analogize() returns: the original's function, state and parameters, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import analogize as package
from analogize import Target, analogize, noise_mode, regions, summary
from analogize.errors import CaptureError

Make = Callable[..., Target]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach(), expected.detach()
    return float((actual - expected).abs().max() / expected.abs().max())


def test_public_names_exist_and_are_listed() -> None:
    assert sorted(package.__all__) == sorted(set(package.__all__))
    for name in package.__all__:
        assert hasattr(package, name)


def test_resnet_for_ideal_is_the_original() -> None:
    model, x = torchvision.models.resnet18(), torch.randn(2, 3, 64, 64)
    analog = analogize(model, target="ideal")
    for mode in (False, True):
        expected = copy.deepcopy(model).train(mode)(x)
        assert relative_error(analog.train(mode)(x), expected) < 1e-5
    assert list(analog.state_dict()) == list(model.state_dict())


def test_state_dicts_fit_both_ways(quantized: Make, images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    analog = analogize(model, quantized(8), [images])
    donor = copy.deepcopy(model)
    for parameter in donor.parameters():
        nn.init.normal_(parameter)
    ranges = {k: v.clone() for k, v in analog.state_dict().items() if k.endswith("range")}
    assert len(ranges) == 6
    analog.load_state_dict(donor.state_dict())
    for name, value in donor.state_dict().items():
        assert torch.equal(analog.state_dict()[name], value)
    anew = analogize(donor, quantized(8), [images]).state_dict()
    for name, value in ranges.items():
        # Weights bring their own ranges; those of activations need data.
        assert torch.equal(analog.state_dict()[name], anew[name] if ".array." in name else value)
    model.load_state_dict({k: v for k, v in analog.state_dict().items() if "analog" not in k})
    assert torch.equal(model[0].weight, donor[0].weight)


def test_the_original_is_untouched(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = copy.deepcopy(model)
    analog = analogize(model, "paper_resnet32", example_inputs=images)
    analog(images)
    assert str(model) == str(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name])
    assert analog.training
    assert all(m.training for m in analog.modules())


def test_inplace_shares_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    weight = model[0].weight
    analog = analogize(model, "ideal", inplace=True)
    assert analog.get_parameter("0.weight") is weight


def test_unreferenced_members_survive() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("hidden", torch.ones(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    model = Odd()
    analog = analogize(model, "ideal")
    assert set(model.state_dict()) <= set(analog.state_dict())
    assert "hidden" in dict(analog.named_buffers())
    assert "hidden" not in analog.state_dict()


class Functional(nn.Module):
    """Functional calls on parameters, a shared module and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.shared = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.shared.weight

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.kernel, padding="same", stride=1)
        y = F.conv2d(y, weight=self.kernel[:, :1].detach() * 0 + 1, groups=4) if False else y
        y = self.shared(self.shared(y.relu()))
        return self.tied(y) + F.linear(y, self.shared.weight)


def test_functional_shared_and_tied(quantized: Make, images: Tensor) -> None:
    model = Functional()
    ideal = analogize(model, "ideal", example_inputs=images)
    assert relative_error(ideal(images), model(images)) < 1e-5
    found = {r.name: r for r in regions(ideal)}
    assert set(found) == {"kernel", "shared", "tied"}
    assert found["shared"].calls == 3
    assert ideal.get_parameter("tied.weight") is ideal.get_parameter("shared.weight")
    rows = {r.region.name: r for r in summary(ideal).rows}
    assert rows["tied"].shares_array_with == "shared"
    analog = analogize(model, quantized(8, eta=0.05), [images])
    analog(images).sum().backward()
    assert analog.get_parameter("kernel").grad is not None


CONVOLUTIONS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    (nn.Conv1d, (2, 4, 9), {"stride": 2, "padding": 1, "padding_mode": "reflect"}),
    (nn.Conv1d, (4, 9), {"padding": "same", "dilation": 2, "kernel_size": 4}),
    (nn.Conv2d, (2, 4, 7, 8), {"padding": (2, 1), "padding_mode": "circular", "groups": 2}),
    (nn.Conv2d, (2, 4, 7, 8), {"padding": "same", "kernel_size": (2, 4)}),
    (nn.Conv2d, (2, 4, 7, 8), {"padding": "same", "padding_mode": "replicate"}),
    (nn.Conv2d, (2, 4, 7, 8), {"padding": "valid", "bias": False, "groups": 4}),
    (nn.Conv3d, (2, 4, 5, 5, 5), {"stride": (1, 2, 1), "dilation": (1, 1, 2), "padding": 1}),
    (nn.ConvTranspose1d, (2, 4, 5), {"stride": 3, "output_padding": 2}),
    (nn.ConvTranspose2d, (2, 4, 5, 5), {"stride": 2, "padding": 1, "groups": 2, "dilation": 2}),
    (nn.ConvTranspose3d, (1, 4, 3, 3, 3), {"stride": (1, 2, 1), "bias": False}),
]


# torch itself says that its even-sized "same" kernels copy their input.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("kind", "shape", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_every_convolution(
    quantized: Make,
    kind: type[nn.Module],
    shape: tuple[int, ...],
    options: dict[str, Any],
    granularity: str,
) -> None:
    layer = kind(4, 8, **({"kernel_size": 3} | options))
    x = torch.randn(shape)
    ideal = analogize(nn.Sequential(layer), "ideal", example_inputs=x)
    torch.testing.assert_close(ideal(x), layer(x))
    fine = analogize(nn.Sequential(layer), quantized(12, granularity=granularity), [x]).eval()
    assert len(regions(fine)) == 1
    # Three roundings of a 12-bit grid, the weights' summed over a kernel.
    assert relative_error(fine(x), layer(x)) < 5e-3


def test_transposed_convolution_with_an_output_size() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)

        def forward(self, x: Tensor, like: Tensor) -> Tensor:
            return self.up(x, output_size=like.shape)  # type: ignore[no-any-return]

    model, x = Up(), torch.randn(1, 4, 5, 5)
    analog = analogize(model, "ideal", example_inputs=(x, torch.zeros(1, 4, 9, 9)))
    assert len(regions(analog)) == 1
    for size in (9, 10):
        like = torch.zeros(1, 4, size, size)
        torch.testing.assert_close(analog(x, like), model(x, like))
    with pytest.raises(ValueError, match=r"output.size"):
        analog(x, torch.zeros(1, 4, 12, 12))


@st.composite
def random_models(draw: st.DrawFn) -> nn.Module:
    """A chain of supported layers on (B, 4, 8, 8) images, with residuals and shared modules."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["conv", "depthwise", "up", "norm", "relu", "shared", "res"]))
        shared = nn.Conv2d(4, 4, 1)
        layers += {
            "conv": [nn.Conv2d(4, 4, 3, padding=draw(st.sampled_from([1, "same"])))],
            "depthwise": [nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="circular")],
            "up": [nn.ConvTranspose2d(4, 4, 2, stride=2), nn.AvgPool2d(2)],
            "norm": [nn.BatchNorm2d(4)],
            "relu": [nn.ReLU()],
            "shared": [shared, nn.ReLU(), shared],
            "res": [Residual(nn.Conv2d(4, 4, 3, padding=1, bias=draw(st.booleans())))],
        }[kind]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)  # type: ignore[no-any-return]


@settings(max_examples=40)
@given(model=random_models(), seed=st.integers(0, 1000), training=st.booleans())
def test_random_graphs_keep_their_function(model: nn.Module, seed: int, training: bool) -> None:
    torch.manual_seed(seed)
    # In double precision: a bias before a BatchNorm has gradient 0, and single leaves its rounding.
    model, x = model.double(), torch.randn(3, 4, 8, 8, dtype=torch.float64)
    analog = analogize(model, "ideal").train(training)
    reference = copy.deepcopy(model).train(training)
    actual, expected = analog(x), reference(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(expected)
    actual.backward(grad)
    expected.backward(grad)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            analog.get_parameter(name).grad, parameter.grad, rtol=1e-8, atol=1e-8
        )
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(dict(analog.named_buffers())[name], buffer)


@settings(max_examples=15)
@given(model=random_models(), seed=st.integers(0, 1000))
def test_random_graphs_pickle_and_copy(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 4, 8, 8)
    analog = analogize(model, "paper_resnet32").eval()
    with noise_mode(analog, "off"):
        expected = analog(x)
    twin = copy.deepcopy(analog)
    with noise_mode(twin, "off"):
        assert torch.equal(twin(x), expected)


def test_optional_arguments_are_guarded() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None, *, double: bool = False) -> Tensor:
            if mask is not None:
                x = x * mask
            y: Tensor = self.fc(x)
            return y * 2 if double else y

    model, x = Masked(), torch.randn(2, 3)
    kept = analogize(model, "ideal", example_inputs={"x": x})
    torch.testing.assert_close(kept(x, torch.ones(3), double=True), 2 * model(x))
    analog = analogize(model, "ideal", example_inputs={"x": x}, capture="fx")
    torch.testing.assert_close(analog(x), model(x))
    torch.testing.assert_close(analog(x, mask=None, double=False), model(x))
    with pytest.raises(CaptureError, match="'mask' was None"):
        analog(x, mask=torch.zeros(3))
    with pytest.raises(CaptureError, match="'double' was False"):
        analog(x, double=True)


def test_a_dead_channel_takes_the_layers_range(quantized: Make) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
    x = torch.randn(50, 4)
    analog = analogize(model, quantized(8, granularity="channel"), [x]).eval()
    assert relative_error(analog(x), model(x)) < 0.05
