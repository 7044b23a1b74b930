from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import (
    Adaptation,
    AnalogModule,
    Recalibration,
    Target,
    adapt,
    analogize,
    evaluate,
    export_onnx,
    noise_mode,
    program,
    recalibrate,
)
from analogize.crossbar.ops import operators
from analogize.errors import CalibrationError
from analogize.evaluation.ridge import ridge

DATA = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(2)]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()


@pytest.fixture
def make_chip(make_target: Callable[..., Target]) -> Callable[..., AnalogModule]:
    def make(eta: float = 0.3, **options: object) -> AnalogModule:
        noise = [{"model": "gaussian", "eta": eta}]
        target = make_target(weights={"range": {"kind": "absmax"}}, noise=noise)
        model = analogize(network(), target, **options)  # type: ignore[arg-type]
        program(model, 1)
        return model

    return make


@torch.no_grad()
def distance(model: nn.Module) -> float:
    """How far the chip's scores are from the noise-free ones, up to what softmax does not see."""
    with noise_mode(model, "programmed"):
        found = model(DATA[0])
    return float((centred(found) - centred(WANTED[id(model)])).square().mean())


WANTED: dict[int, Tensor] = {}


def centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(1, keepdim=True)


def remember(model: nn.Module) -> None:
    with torch.no_grad(), noise_mode(model, "off"):
        WANTED[id(model)] = model(DATA[0])


@pytest.mark.parametrize("digital", [(), ("5",)])
@pytest.mark.parametrize("options", [{}, {"steps": 6}, {"steps": 6, "rank": 1}])
def test_it_comes_closer_and_never_changes_an_analog_weight(
    make_chip: Callable[..., AnalogModule], digital: tuple[str, ...], options: dict[str, int]
) -> None:
    model = make_chip(digital=digital)
    remember(model)
    weights = {op.region.weight: model.get_parameter(op.region.weight) for op in operators(model)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    chips = [op.array.chip.clone() for op in operators(model)]  # type: ignore[union-attr]
    start = distance(model)
    found = adapt(model, DATA, model, **options)  # type: ignore[arg-type]
    assert distance(model) < start
    assert found.head == ("in place" if digital else "beside")
    for name, weight in weights.items():
        assert torch.equal(weight, before[name])
        assert weight.grad is None
        assert weight.requires_grad
    for op, chip in zip(operators(model), chips, strict=True):
        assert torch.equal(op.array.chip, chip)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"steps": 6, "rank": 1}])
def test_it_works_in_the_models_own_type(
    make_chip: Callable[..., AnalogModule], options: dict[str, int], dtype: torch.dtype
) -> None:
    model, data = make_chip().to(dtype), [batch.to(dtype) for batch in DATA]
    program(model, 1)
    with torch.no_grad(), noise_mode(model, "off"):
        wanted = centred(model(data[0]))
    missed = []
    for _ in range(2):
        with torch.no_grad():
            found = model(data[0])
        assert found.dtype == dtype
        missed.append(float((centred(found) - wanted).square().mean()))
        adapt(model, data, model, **options)  # type: ignore[arg-type]
    assert missed[1] < missed[0]


def test_a_chip_without_errors_stays_as_it_is(make_chip: Callable[..., AnalogModule]) -> None:
    model = make_chip(eta=0.0)
    remember(model)
    adapt(model, DATA, model)
    # Rounding alone: squared, the eps of float32.
    scale = float(WANTED[id(model)].square().mean())
    assert distance(model) < 1e-12 * scale


@pytest.mark.parametrize("first", [adapt, recalibrate])
def test_what_a_chip_was_given_before_is_replaced(
    make_chip: Callable[..., AnalogModule], first: Callable[..., object]
) -> None:
    model, again = make_chip(), make_chip()
    again.load_state_dict(model.state_dict())
    program(again, 2)
    first(again, DATA, again)
    for chip in (model, again):
        program(chip, 1)
        adapt(chip, DATA, chip)
    with torch.no_grad():
        assert torch.equal(model(DATA[0]), again(DATA[0]))


def test_the_cost_is_counted(make_chip: Callable[..., AnalogModule]) -> None:
    model = make_chip()
    # A scale and an offset for each of 8 channels and of 4 scores; head 4 x 32. Of the
    # convolution's 8 x 6 x 6 outputs each is scaled.
    found = adapt(model, DATA, model)
    assert (found.parameters, found.extra_macs) == (16 + 128 + 8, 8 * 36 + 128 + 4)
    # BatchNorm's two statistics of 8 channels in their stead.
    found = adapt(model, DATA, model, match=False)
    assert (found.parameters, found.extra_macs) == (16 + 128 + 8, 128 + 4)
    digital = make_chip(digital=("5",))
    found = adapt(digital, DATA, digital, match=False)
    assert (found.parameters, found.extra_macs) == (16 + 128 + 4, 0)


def test_every_chip_of_an_evaluation_is_adapted(make_chip: Callable[..., AnalogModule]) -> None:
    model = make_chip(digital=("5",))
    remember(model)
    # An untrained network scores one class above all; labels are what exceeds its class's mean.
    scores = WANTED[id(model)]
    with torch.no_grad():
        model.get_parameter("5.bias").sub_(scores.mean(0))
    labels = (scores - scores.mean(0)).argmax(1)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    few = Adaptation(DATA, model)
    plain = evaluate(model, [(DATA[0], labels)], instances=8, progress=False)
    adapted = evaluate(model, [(DATA[0], labels)], instances=8, recalibration=few, progress=False)
    assert (adapted.levels[0].mean or 0) > (plain.levels[0].mean or 0)
    assert adapted.fingerprint != plain.fingerprint
    assert few.found is not None
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class Turning:
    """Batches that come in another order every time, as a loader's do that shuffles."""

    def __init__(self) -> None:
        self.batches = DATA[::-1]

    def __iter__(self) -> Iterator[Tensor]:
        self.batches = self.batches[::-1]
        return iter(self.batches)


@pytest.mark.parametrize("make_data", [Turning, lambda: iter(DATA)])
def test_data_are_read_once(
    make_chip: Callable[..., AnalogModule], make_data: Callable[[], Iterable[Tensor]]
) -> None:
    model, other = make_chip(), make_chip()
    other.load_state_dict(model.state_dict())
    program(other, 1)
    adapt(model, DATA, model, steps=2)
    adapt(other, make_data(), other, steps=2)
    with torch.no_grad():
        assert torch.equal(model(DATA[0]), other(DATA[0]))


@pytest.mark.parametrize("remedy", [Recalibration, Adaptation])
def test_a_teacher_that_has_changed_between_two_evaluations_is_run_again(
    make_chip: Callable[..., AnalogModule], remedy: type
) -> None:
    model, labels = make_chip(digital=("5",)), torch.zeros(64)
    few = remedy(DATA, model)

    def run(recalibration: Any) -> tuple[float, ...]:
        found = evaluate(
            model,
            [(DATA[0], labels)],
            lambda y, _: y.abs().mean(),
            instances=2,
            recalibration=recalibration,
            progress=False,
        )
        return found.levels[0].values

    before = run(few)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert run(few) == run(remedy(DATA, model)) != before


def test_an_adapted_chip_is_exported(
    make_chip: Callable[..., AnalogModule], tmp_path: Path
) -> None:
    model = make_chip()
    adapt(model, DATA, model, steps=2, rank=1)
    with torch.no_grad():
        expected = model(DATA[0])
    export_onnx(model, tmp_path / "m.onnx", DATA[0], noise="programmed")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: DATA[0].numpy()})
    # float32 sums in another order.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused(make_chip: Callable[..., AnalogModule]) -> None:
    model = make_chip()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CalibrationError, match="no batch"):
        adapt(model, [], model)
    with pytest.raises(CalibrationError, match="scores"):
        adapt(model, DATA, nn.Flatten(0))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        adapt(model, [torch.full((4, 3, 8, 8), torch.nan)], model)
    with pytest.raises(CalibrationError, match="steps"):
        adapt(model, DATA, model, steps=-1)
    with pytest.raises(CalibrationError, match="learning_rate"):
        adapt(model, DATA, model, learning_rate=0.0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# ------------------------------------------------------------------ ridge


def test_ridge_finds_a_linear_law_and_nothing_where_there_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64) + 2
    law = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    weights, intercepts = ridge(x, x @ law.T + 1)
    # The smallest penalty is 1e-8 of the largest eigenvalue.
    torch.testing.assert_close(weights, law, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(intercepts, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)
    noise = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    weights, _ = ridge(x, noise)
    # Least squares would give weights of variance 1 / 400.
    assert weights.square().mean() < 1 / 400


def test_ridge_survives_more_inputs_than_samples() -> None:
    x = torch.randn(10, 40, dtype=torch.float64)
    weights, _ = ridge(x, x[:, :2])
    assert weights.isfinite().all()
