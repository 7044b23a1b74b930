"""Models in half precision, and compiled ones, on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, noise_level, program
from analogize.crossbar.ops import operators

Batches = list[tuple[Tensor, Tensor]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("target", ["paper_resnet32", "pcm_joshi2020"])
def test_a_chip_in_half_precision(
    target: str,
    dtype: torch.dtype,
    network: nn.Module,
    batches: Batches,
    pair: Callable[..., Any],
    device: torch.device,
) -> None:
    full, there = pair(network, target, batches)
    here, there = copy.deepcopy(full).to(dtype), there.to(dtype)
    for model in (full, here, there):
        program(model, 3)
    for one, other in zip(operators(here), operators(there), strict=True):
        assert torch.equal(one.array.chip, other.array.chip.cpu())  # type: ignore[arg-type, union-attr]
    x = batches[0][0]
    with torch.no_grad():
        found, expected = there(x.to(device, dtype)), full(x)
    assert found.dtype == dtype
    # Weights, inputs and sums are rounded to ``eps / 2``: a few times that, in two layers. With a
    # converter of 8 bits a value near an edge moves by a step, 2^-8 of the range.
    unit = torch.finfo(dtype).eps + (2**-8 if target == "pcm_joshi2020" else 0)
    assert (found.cpu().double() - expected).abs().max() < 16 * unit * expected.abs().max()


def compilable(device: torch.device) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(device)
    x = torch.randn(32, 8, device=device)
    analog = analogize(model, "paper_resnet32", example_inputs=x).train()
    analog(x)
    return analog, x


# torch.compile's own warnings, of TensorFloat-32 and of what it deprecates.
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_are_the_eager_ones(device: torch.device) -> None:
    eager, x = compilable(device)
    twin = copy.deepcopy(eager)
    compiled: Any = torch.compile(twin)
    with noise_level(eager, 0), noise_level(twin, 0):
        for model in (eager, compiled):
            model(x).square().mean().backward()
        torch.testing.assert_close(compiled(x), eager(x), rtol=1e-4, atol=1e-5)
    for one, other in zip(eager.parameters(), twin.parameters(), strict=True):
        # float32 sums of 32 samples.
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_draw_fresh_noise(device: torch.device) -> None:
    eager, x = compilable(device)
    compiled: Any = torch.compile(eager)
    torch.manual_seed(1)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(compiled(x), first)
    first.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in eager.parameters())
