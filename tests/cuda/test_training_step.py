"""A training step on the device: the CPU's gradients, and noise of the right size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, clip_weights, learned_ranges, noise_level, noise_mode, one_pass
from analogize.crossbar.ops import operators
from analogize.targets import names

Batches = list[tuple[Tensor, Tensor]]
ETA = 0.1


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Loss and gradients of one step, on the CPU."""
    inputs, labels = batch
    model.zero_grad()
    loss = F.cross_entropy(model(inputs), labels)
    loss.backward()
    found = {"loss": loss.detach().cpu()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.device == parameter.device
        found[name] = parameter.grad.cpu()
    return found


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Ranges of converters, and their gradients, are float32.
        rtol = 1e-9 if value.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol, msg=name)


@pytest.mark.parametrize("target", names())
def test_without_noise_it_is_the_cpus(
    target: str,
    network: nn.Module,
    batches: Batches,
    pair: Callable[..., Any],
    there: Callable[[Batches], Batches],
) -> None:
    here, other = pair(network, target, batches)
    with noise_mode(here.train(), "off"), noise_mode(other.train(), "off"):
        close(step(other, there(batches)[0]), step(here, batches[0]))
    if target == "afm_2025":
        assert learned_ranges(other)


@pytest.mark.parametrize("target", ["paper_resnet32", "pcm_joshi2020"])
def test_so_are_several_steps_at_level_zero(
    target: str,
    network: nn.Module,
    batches: Batches,
    pair: Callable[..., Any],
    there: Callable[[Batches], Batches],
) -> None:
    here, other = pair(network, target, batches)
    for model, data in ((here.train(), batches), (other.train(), there(batches))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with noise_level(model, 0):
            for batch in data:
                step(model, batch)
                optimizer.step()
                clip_weights(model)
    for name, value in here.state_dict().items():
        found = other.state_dict()[name].cpu()
        if value.is_floating_point():
            torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-9, msg=name)
        else:
            assert torch.equal(found, value), name


@pytest.mark.parametrize("target", ["paper_resnet32", "pcm_8bit", "pcm_joshi2020", "afm_2025"])
def test_passes_differ_and_the_global_seed_decides_them(
    target: str,
    network: nn.Module,
    batches: Batches,
    pair: Callable[..., Any],
    there: Callable[[Batches], Batches],
) -> None:
    model, batch = pair(network, target, batches)[1].train(), there(batches)[0]
    torch.manual_seed(1)
    first, second = step(model, batch), step(model, batch)
    assert not torch.equal(first["loss"], second["loss"])
    torch.manual_seed(1)
    again = step(model, batch)
    # Gradients of convolutions may be summed in any order; the loss is of one forward pass.
    torch.testing.assert_close(again["loss"], first["loss"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_noise_has_the_level_that_was_asked_for(
    dtype: torch.dtype, device: torch.device
) -> None:
    layers = nn.Sequential(nn.Linear(32, 32, bias=False)).to(device)
    model = analogize(layers, "paper_resnet32").eval()
    low, high = operators(model)[0].array.range.tolist()
    model.to(dtype)
    identity = torch.eye(32, device=device, dtype=dtype)
    with torch.no_grad(), noise_level(model, ETA):
        draws = torch.stack([model(identity) for _ in range(200)]).double()
        with noise_mode(model, "off"):
            noise = (draws - model(identity).double()) / (ETA * (high - low))
    # 204800 draws: five standard errors, 1/sqrt(N) of the mean, 1/sqrt(2 N) of the deviation; and
    # bfloat16 rounds sums of weight and noise to 2^-9, which adds less than 1e-3 to the deviation.
    count = noise.numel()
    assert abs(float(noise.mean())) < 5 * count**-0.5
    assert abs(float(noise.std()) - 1) < 5 * (2 * count) ** -0.5 + 1e-3
    # Draws of different passes, and of different weights in one, are independent.
    flat = noise.flatten(1)
    assert abs(float((flat[1:] * flat[:-1]).mean())) < 5 * count**-0.5
    assert abs(float((flat[:, 1:] * flat[:, :-1]).mean())) < 5 * count**-0.5


def test_layers_of_a_pass_draw_apart_and_its_calls_together(device: torch.device) -> None:
    layer = nn.Linear(16, 16, bias=False)
    twin = copy.deepcopy(layer)
    model = analogize(nn.ModuleDict({"a": layer, "b": twin}), "paper_resnet32").to(device).train()
    x = torch.eye(16, device=device)
    a, b = model.get_submodule("a"), model.get_submodule("b")
    with one_pass(model):
        left, right, other = a(x), a(x), b(x)
    assert torch.equal(left, right)
    assert not torch.equal(left, other)
    assert not torch.equal(left, a(x))


def test_weights_are_clipped_where_they_are(
    network: nn.Module, batches: Batches, pair: Callable[..., Any], device: torch.device
) -> None:
    here, there = pair(network, "paper_resnet32", batches)
    for model in (here, there):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
    assert clip_weights(there) == clip_weights(here) > 0
    assert clip_weights(there) == 0
    for name, value in here.state_dict().items():
        found = there.state_dict()[name]
        assert found.device == device
        assert torch.equal(found.cpu(), value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_near_float32(
    dtype: torch.dtype,
    network: nn.Module,
    batches: Batches,
    pair: Callable[..., Any],
    there: Callable[[Batches], Batches],
) -> None:
    floats = [(x.float(), y) for x, y in batches]
    model = pair(network.float(), "paper_resnet32", floats)[1]
    x, labels = there(floats)[0]
    exact: dict[str, Tensor] = {}
    rough: dict[str, Tensor] = {}
    with noise_level(model.train(), 0):
        for found, enabled in ((exact, False), (rough, True)):
            model.zero_grad()
            with torch.autocast(x.device.type, dtype, enabled=enabled):
                outputs = model(x)
                loss = F.cross_entropy(outputs.float(), labels)
            loss.backward()
            found |= {name: p.grad.clone() for name, p in model.named_parameters()}
            found["outputs"] = outputs.detach()
    assert rough["outputs"].dtype == dtype
    # Two products and BatchNorm, each rounded to 2^-9 or 2^-12; the gradient of the bias before
    # BatchNorm is zero but for rounding, and so measured against the largest one.
    unit, largest = torch.finfo(dtype).eps, max(float(v.abs().max()) for v in exact.values())
    for name, value in exact.items():
        scale = largest if name == "0.bias" else float(value.abs().max())
        assert (rough[name].float() - value).abs().max() < 16 * unit * scale, name
