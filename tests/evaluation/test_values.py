"""Monte Carlo over chips: values, common chips, batches of every form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import Target, analogize, noise_level, program
from analogize.crossbar.seeds import chip_seed
from analogize.evaluation.montecarlo import evaluate

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]
Make = Callable[..., Any]


def by_hand(model: nn.Module, batches: Batches, seed: int) -> float:
    program(model, seed)
    model.eval()
    with torch.no_grad():
        hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return float(np.float32(hits) / np.float32(sum(len(y) for _, y in batches)))


def test_values_are_those_of_a_loop_by_hand(analog: nn.Module, batches: Batches) -> None:
    result = evaluate(analog, batches, eta=[0.05, None], instances=4, seed=3)
    for level in result.levels:
        with noise_level(analog, level.eta):
            assert level.values == tuple(by_hand(analog, batches, s) for s in result.seeds)
    assert [level.eta for level in result.levels] == [0.05, None]
    assert result.samples == 47
    assert (result.target, result.metric, result.noise) == ("test", "accuracy", ("gaussian",))
    assert result.complete
    assert len(set(result.levels[1].values)) > 1


def test_seeds_are_the_same_in_another_process() -> None:
    code = (
        "from analogize.crossbar.seeds import chip_seed\n"
        "print(*[chip_seed(5, k) for k in range(3)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [str(chip_seed(5, k)) for k in range(3)]
    seeds = {chip_seed(s, k) for s in range(20) for k in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)


def test_mean_agrees_with_the_closed_form(linear: tuple[nn.Module, Batches], squared: Make) -> None:
    model, batches = linear
    result = evaluate(model, batches, squared, eta=0.05, instances=400)
    weight = next(model.parameters())
    sigma = 0.05 * 2 * weight.abs().max().item()
    expected = sigma**2 * batches[0][0].square().sum(1).mean().item()  # E|dw x|^2 = sigma^2 |x|^2
    (level,) = result.levels
    assert level.mean is not None
    assert level.std is not None
    assert abs(level.mean - expected) < 5 * level.std / 400**0.5


def test_chips_are_common_to_all_levels(linear: tuple[nn.Module, Batches], squared: Make) -> None:
    model, batches = linear
    result = evaluate(model, batches, squared, eta=[0.05, 0.1], instances=5)
    low, high = (np.array(level.values) for level in result.levels)
    # The same draw at twice the level: four times the squared error, up to float32 rounding.
    np.testing.assert_allclose(high, 4 * low, rtol=1e-4)
    assert len(set(low)) == 5


def test_without_noise_one_pass_stands_for_all_chips(
    analog: nn.Module, batches: Batches, counted: Make
) -> None:
    data = counted(batches)
    result = evaluate(analog, data, eta=[0.0, 0.1], instances=3)
    assert data.passes == 1 + 3
    clean, noisy = result.levels
    assert clean.deterministic
    assert len(clean.values) == 1
    assert not noisy.deterministic
    assert result.complete
    with noise_level(analog, 0.0):
        assert {by_hand(analog, batches, seed) for seed in result.seeds} == {clean.mean}


def test_a_shuffling_loader_draws_but_the_model_does_not(
    analog: nn.Module, batches: Batches
) -> None:
    inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(inputs, targets), 16, shuffle=True)
    result = evaluate(analog, loader, eta=[0.0, 0.1], instances=3)
    assert result.levels[0].deterministic
    # Counts of hits do not depend on the order.
    unshuffled = evaluate(analog, batches, eta=[0.0, 0.1], instances=3)
    # Which samples were right is not kept in an order that is another for every chip.
    for level, other in zip(result.levels, unshuffled.levels, strict=True):
        assert level == other.model_copy(update={"hits": ()})


def test_a_spread_of_eta_is_noise_at_eta_zero(
    make_target: MakeTarget, batches: Batches, net: Make
) -> None:
    noise = [{"model": "gaussian", "eta": 0.0, "eta_std": 0.2}]
    target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
    (level,) = evaluate(analogize(net(), target), batches, eta=0.0, instances=4).levels
    assert not level.deterministic
    assert len(set(level.values)) > 1


def test_a_model_that_draws_in_eval_mode_is_no_constant(batches: Batches, dreaming: Make) -> None:
    model = analogize(dreaming(), "ideal")
    first, second = (evaluate(model, batches, instances=4) for _ in range(2))
    assert not first.levels[0].deterministic
    assert len(set(first.levels[0].values)) > 1
    assert first == second


def test_data_loader_batches_of_every_form() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            scores: Tensor = self.a(x) + self.b(y)
            return scores

    torch.manual_seed(1)
    model = analogize(Two(), "paper_resnet32")
    x, y, t = torch.randn(10, 4), torch.randn(10, 4), torch.randint(0, 3, (10,))
    collated = DataLoader([((a, b), c) for a, b, c in zip(x, y, t, strict=True)], 4)  # type: ignore[arg-type]
    named = DataLoader([({"y": b, "x": a}, c) for a, b, c in zip(x, y, t, strict=True)], 4)  # type: ignore[arg-type]
    forms: list[Any] = [[((x, y), t)], [[[x, y], t]], [({"x": x, "y": y}, t)], collated, named]
    results = [evaluate(model, data, eta=0.1, instances=3) for data in forms]
    assert all(r.levels == results[0].levels and r.samples == 10 for r in results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_chips_are_the_same_on_a_gpu(
    linear: tuple[nn.Module, Batches], dreaming: Make, squared: Make
) -> None:
    model, batches = linear
    state = torch.cuda.get_rng_state()
    settings: dict[str, Any] = {"metric": squared, "eta": [0.0, 0.1], "instances": 5}
    here = evaluate(model, batches, **settings)
    there = evaluate(model, batches, **settings, device="cuda")
    # float32 products on two devices; TensorFloat-32 is off by default.
    np.testing.assert_allclose(here.levels[1].values, there.levels[1].values, rtol=1e-4)
    assert there.levels[0].deterministic
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert next(model.parameters()).device.type == "cpu"
    dreaming = analogize(dreaming(), "ideal").cuda()
    images = [(torch.randn(20, 1, 6, 6), torch.randint(0, 5, (20,)))]
    first, second = (evaluate(dreaming, images, instances=3) for _ in range(2))
    assert not first.levels[0].deterministic
    assert first == second
