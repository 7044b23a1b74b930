"""No step makes the host wait for the device, and steps can be captured as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, noise_level, noise_mode, one_pass, program
from analogize.errors import ChipError

# torch says once that its search for synchronisations is a prototype.
pytestmark = pytest.mark.filterwarnings("ignore:.*ynchronization debug mode")
TARGETS = [
    "ideal",
    "paper_resnet32",
    "pcm_4bit",
    "pcm_8bit",
    "pcm_joshi2020",
    "pcm_hermes",
    "reram_wan2022",
    "afm_2025",
    "isaac",
    "sonos_tcas2022",
]
CAPTURED = ["ideal", "paper_resnet32", "pcm_8bit", "pcm_joshi2020"]


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """An error from torch for every wait within the block; on the CPU nothing."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def rewritten(target: str, device: torch.device) -> tuple[nn.Module, Tensor]:
    layers = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4)
    )
    x = torch.randn(16, 2, 5, 5, device=device)
    return analogize(layers.to(device), target, [x]), x


def step(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Forward, backward and the optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def backward(model: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = model(x).square().mean()
    loss.backward()
    return loss.detach()


# A step moves a range that is learned, and Python reads what it is then.
@pytest.mark.parametrize("target", [t for t in TARGETS if t != "afm_2025"])
def test_a_training_step_does_not_wait(target: str, device: torch.device) -> None:
    model, x = rewritten(target, device)
    run = step(model.train(), x)
    for _ in range(3):
        run()
    with no_waiting(device):
        run()


@pytest.mark.parametrize("target", TARGETS)
def test_a_programmed_chip_waits_once_at_its_end(target: str, device: torch.device) -> None:
    model, x = rewritten(target, device)
    program(model.eval(), 1)
    with torch.no_grad():
        for _ in range(3):
            model(x)
        if device.type != "cuda":
            return
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                model(x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    # What the weights of a chip are compared by is fetched at once; an ideal target has no chip.
    found = [each for each in waits if "called a synchronizing" in str(each.message)]
    assert len(found) == (0 if target == "ideal" else 1)


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "ideal"])
def test_changed_weights_are_refused_all_the_same(target: str, device: torch.device) -> None:
    model, x = rewritten(target, device)
    program(model.eval(), 1)
    weight = dict(model.named_parameters())["4.weight"]
    with torch.no_grad():
        for _ in range(2):
            model(x)
        kept = weight.clone()
        weight.data.view(-1)[-1] += 0.25  # no counter tells
        for _ in range(2):
            with pytest.raises(ChipError, match="in their values"):
                model(x)
        weight.data.copy_(kept)
        model(x)


@pytest.mark.parametrize("target", CAPTURED)
def test_other_ways_to_call_do_not_wait(target: str, device: torch.device) -> None:
    model, x = rewritten(target, device)
    model.eval()

    def calls() -> None:
        with torch.no_grad(), one_pass(model):
            model(x), model(x)  # fresh noise in eval mode
        with torch.no_grad(), noise_mode(model, "off"):
            model(x)
        with torch.autocast(device.type, torch.bfloat16):
            backward(model, x)

    for _ in range(3):
        calls()
    with no_waiting(device):
        calls()


def captured(run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """``run`` as a graph, warmed up on a stream of its own as torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


@pytest.mark.parametrize("target", CAPTURED)
def test_a_captured_step_draws_fresh_noise_every_time(target: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need CUDA")
    model, x = rewritten(target, device)
    model.train()
    weight = next(model.parameters())

    def run() -> Tensor:
        for parameter in model.parameters():
            parameter.grad = None
        return backward(model, x)

    graph, loss = captured(run)
    gradient = weight.grad
    assert gradient is not None
    losses, gradients = [], []
    for _ in range(4):
        graph.replay()
        losses.append(float(loss))
        gradients.append(gradient.clone())
    silent = target == "ideal"
    assert len(set(losses)) == (1 if silent else 4)
    assert all(each.isfinite().all() for each in gradients)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7) is silent
    # Eagerly again: what was captured left nothing behind.
    assert abs(float(run()) - sum(losses) / 4) < abs(sum(losses))


def test_a_captured_step_without_noise_is_the_eager_one(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need CUDA")
    model, x = rewritten("pcm_8bit", device)
    with noise_level(model.train(), 0):
        graph, loss = captured(lambda: backward(model, x))
        graph.replay()
        torch.testing.assert_close(loss, backward(model, x), rtol=1e-4, atol=1e-5)


def test_a_captured_chip_is_the_programmed_one(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need CUDA")
    model, x = rewritten("pcm_joshi2020", device)
    program(model.eval(), 1)
    with torch.no_grad():
        graph, outputs = captured(lambda: model(x))
        x.copy_(torch.randn_like(x))
        graph.replay()
        # float32 sums that capture may compute in another order; then a step of the converter.
        difference = (outputs - model(x)).abs()
        assert difference.mean() < 0.01 * outputs.abs().max()
