"""Chips evaluated on the device have the CPU's values, and analyses come to its results."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import (
    Adaptation,
    Recalibration,
    adapt,
    assign,
    bias_variance,
    compare,
    evaluate,
    mismatch,
    mutual_information,
    noise_mode,
    program,
    recalibrate,
    sensitivity,
)

Batches = list[tuple[Tensor, Tensor]]
Make = Callable[..., Any]
QUIET: dict[str, Any] = {"progress": False, "seed": 4}
TARGETS = ["paper_resnet32", "pcm_8bit", "pcm_joshi2020"]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sharper than an accuracy: of every output, and not of the largest alone."""
    return (outputs - F.one_hot(targets, 4)).square().mean()


def values(found: Any) -> list[list[float]]:
    assert found.levels
    return [[float(v) for v in level.values] for level in found.levels]


def same(found: Any, expected: Any, rel: float = 1e-9) -> None:
    for one, other in zip(values(found), values(expected), strict=True):
        assert one == pytest.approx(other, rel=rel, abs=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_evaluation_gives_the_cpus_values(
    target: str,
    network: nn.Module,
    batches: Batches,
    pair: Make,
    there: Callable[[Batches], Batches],
    device: torch.device,
) -> None:
    here, other = pair(network, target, batches)
    settings: dict[str, Any] = {"metric": squared, "eta": [0.0, 0.1], "instances": 4, **QUIET}
    expected = evaluate(here, batches, **settings)
    same(evaluate(here, batches, device=device, **settings), expected)
    assert next(here.parameters()).device.type == "cpu"
    for data in (batches, there(batches)):
        same(evaluate(other, data, **settings), expected)
    # Sums in another order, in float64.
    same(evaluate(other, batches, at_once=3, **settings), expected)
    hits = evaluate(other, batches, instances=4, **QUIET)
    assert values(hits) == values(evaluate(here, batches, instances=4, **QUIET))


def test_what_the_device_draws_is_put_back(
    network: nn.Module, batches: Batches, pair: Make, device: torch.device
) -> None:
    dropping = nn.Sequential(network, nn.Dropout(0.5))
    model = pair(dropping, "paper_resnet32", batches)[1]
    generators: Any = torch.cuda if device.type == "cuda" else torch
    state = generators.get_rng_state()
    evaluate(model, batches, instances=2, **QUIET)
    assert torch.equal(generators.get_rng_state(), state)


def test_evaluation_goes_on_from_a_file_of_the_cpu(
    network: nn.Module, batches: Batches, pair: Make, tmp_path: Any
) -> None:
    here, other = pair(network, "pcm_joshi2020", batches)
    settings: dict[str, Any] = {"metric": squared, "drift_time": ["0 s", "1 day"], **QUIET}
    expected = evaluate(here, batches, instances=4, **settings)
    path = tmp_path / "run.json"
    evaluate(here, batches, instances=2, resume=path, **settings)
    same(evaluate(other, batches, instances=4, resume=path, **settings), expected)


def remedies(model: nn.Module, data: Batches) -> dict[str, Any]:
    images: Iterable[Any] = [x for x, _ in data]
    return {
        "statistics": images,
        "own teacher": Recalibration(images, model),
        "adaptation": Adaptation(images, model),
        "gradients": Adaptation(images, model, steps=3),
    }


@pytest.mark.parametrize("name", ["statistics", "own teacher", "adaptation", "gradients"])
def test_chips_are_corrected_alike(
    name: str, network: nn.Module, batches: Batches, pair: Make, device: torch.device
) -> None:
    here, other = pair(network, "paper_resnet32", batches)
    settings: dict[str, Any] = {"metric": squared, "instances": 2, **QUIET}
    plain = evaluate(here, batches, **settings)
    mine = remedies(here, batches)[name]
    expected = evaluate(here, batches, recalibration=mine, **settings)
    assert values(expected) != values(plain)
    same(evaluate(here, batches, recalibration=mine, device=device, **settings), expected, 1e-3)
    theirs = remedies(other, batches)[name]
    same(evaluate(other, batches, recalibration=theirs, **settings), expected, 1e-3)


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"steps": 3, "rank": 1}], ids=repr)
def test_a_chip_is_adapted_alike(
    options: dict[str, int],
    network: nn.Module,
    batches: Batches,
    pair: Make,
    there: Callable[[Batches], Batches],
    device: torch.device,
) -> None:
    batches = [(images.float(), labels) for images, labels in batches]
    here, other = pair(network.float(), "paper_resnet32", batches)
    third = copy.deepcopy(other)
    x = batches[0][0]
    outputs, images = [], [inputs for inputs, _ in batches]
    moved = [inputs for inputs, _ in there(batches)]
    teachers: list[tuple[nn.Module, list[Tensor]]] = [
        (network, images),
        (copy.deepcopy(network).to(device), images),
        (copy.deepcopy(network).to(device), moved),
    ]
    for model, (teacher, data) in zip((here, other, third), teachers, strict=True):
        program(model, 3)
        assert recalibrate(model, data) == 1
        adapt(model, data, teacher, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            outputs.append(model(x.to(next(model.parameters()).device)).cpu())
    # Adam makes a step of a gradient that is all rounding, on each device to another side.
    beyond = 2 * options.get("steps", 0) * Adaptation.learning_rate
    for found in outputs[1:]:
        torch.testing.assert_close(found, outputs[0], rtol=1e-3, atol=1e-3 + beyond)


def test_recalibration_finds_the_cpus_statistics(
    network: nn.Module, batches: Batches, pair: Make
) -> None:
    here, other = pair(network, "pcm_8bit", batches)
    for model in (here, other):
        program(model, 3)
        recalibrate(model, [x for x, _ in batches])
    for key, value in here.state_dict().items():
        found = other.state_dict()[key].cpu()
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7, msg=key)
    x = batches[0][0]
    with torch.no_grad(), noise_mode(here, "off"), noise_mode(other, "off"):
        outputs = other(x.to(next(other.parameters()).device))
        torch.testing.assert_close(outputs.cpu(), here(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", ["paper_resnet32", "pcm_joshi2020"])
def test_analyses_come_to_the_same_numbers(
    target: str, network: nn.Module, batches: Batches, pair: Make
) -> None:
    here, other = pair(network, target, batches)
    found = []
    for model in (here, other):
        costs = sensitivity(model, batches, squared, instances=3, lower_is_better=True, **QUIET)
        loss = bias_variance(model, batches, instances=4, seed=1).rows[0]
        told = mutual_information(model, batches, samples=40, instances=6, seed=1).rows[0]
        curves = mismatch({0.0: model}, batches, [0.0, 0.1], squared, 3, **QUIET)
        twin = compare(model, copy.deepcopy(model), batches, squared, instances=3, **QUIET)
        assert twin.differences[0].mean == 0
        assert all(row.estimate > 0 for row in costs.rows)
        found.append(
            [row.estimate for row in costs.rows]
            + [loss.variance.value, loss.bias.value, loss.mse.value]
            + [told.binned.value, told.corrected.value, told.neighbours.value]
            + [v for curve in curves.evaluations.values() for level in values(curve) for v in level]
        )
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-9)


def test_the_same_regions_stay_digital(
    network: nn.Module, batches: Batches, device: torch.device
) -> None:
    settings: dict[str, Any] = {"calibration": batches, "instances": 6, "seed": 1}
    here = assign(network, batches, "pcm_4bit", 0.2, **settings)
    there = assign(copy.deepcopy(network).to(device), batches, "pcm_4bit", 0.2, **settings)
    assert there.digital == here.digital
    assert there.fragment == here.fragment
    assert there.drop == pytest.approx(here.drop, abs=1e-9)
