"""Training procedures on the device: repeatable, resumable, and the CPU's without noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from analogize import (
    TrainingNoise,
    analogize,
    choose_range,
    distill,
    learned_ranges,
    load,
    noise_mode,
    train_robust,
)
from analogize.crossbar.ops import operators
from analogize.targets import load_target

# Lightning's and torch's own, of devices that it does not use, of workers, and of what is
# deprecated; analogize's own warnings are tested elsewhere.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
State = dict[str, Tensor]
QUIET: dict[str, Any] = {"devices": 1, "enable_progress_bar": False}
X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def accelerator(device: torch.device) -> str:
    """Lightning's name of the device."""
    return "gpu" if device.type == "cuda" else "cpu"


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))


def loader(dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    data = TensorDataset(X.to(dtype), X[:, :3].argmax(1))
    return DataLoader(data, 16, shuffle=True, generator=torch.Generator())


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key].cpu(), b[key].cpu()) for key in a)


class Stop(L.Callback):
    """A crash in the second batch of the third epoch."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 10:
            raise InterruptedError


@pytest.mark.parametrize("settings", [{}, {"noise": TrainingNoise(eta_std=0.02, eta_warmup=3)}])
@pytest.mark.parametrize("target", ["paper_resnet32", "pcm_joshi2020"])
def test_distillation_is_repeatable_and_resumable(
    target: str, settings: dict[str, Any], teacher: nn.Module, accelerator: str, tmp_path: Path
) -> None:
    if settings and target == "pcm_joshi2020":
        settings = {"noise": TrainingNoise(eta_warmup=3)}
    start = analogize(teacher, target, [X])

    def run(resume: Path | None, *callbacks: L.Callback) -> State:
        student = copy.deepcopy(start)
        options = {**QUIET, **settings, "accelerator": accelerator, "callbacks": list(callbacks)}
        distill(student, teacher, loader(), epochs=4, seed=3, resume=resume, **options)
        assert next(student.parameters()).device.type == "cpu", "it comes home"
        return student.state_dict()

    whole = run(None)
    assert not same(whole, start.state_dict())
    assert same(whole, run(None))
    with pytest.raises(InterruptedError):
        run(tmp_path / "run.ckpt", Stop())
    assert same(whole, run(tmp_path / "run.ckpt"))
    opened = load(tmp_path / "run.ckpt", copy.deepcopy(teacher))
    assert same(opened.state_dict(), whole)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def test_without_noise_it_trains_as_on_the_cpu(
    teacher: nn.Module, accelerator: str, device: torch.device
) -> None:
    plain = nn.Sequential(teacher[0], teacher[1], teacher[3]).double()  # type: ignore[index]
    start = analogize(plain, "paper_resnet32", [X.double()])
    states = []
    options: dict[str, Any] = {"noise": TrainingNoise(eta=0), "optimizer": sgd, "seed": 3, **QUIET}
    for where, home in (("cpu", "cpu"), (accelerator, "cpu"), (accelerator, device)):
        student = copy.deepcopy(start).to(home)
        data = loader(torch.float64)
        distill(student, plain, data, data, epochs=2, accelerator=where, **options)
        assert next(student.parameters()).device.type == torch.device(home).type
        states.append(student.state_dict())
    for state in states[1:]:
        for key, value in states[0].items():
            # Eight steps, which carry float64's rounding on.
            found = state[key].cpu()
            torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-8, msg=key)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision: str, teacher: nn.Module, accelerator: str) -> None:
    if precision == "16-mixed" and accelerator == "cpu":
        pytest.skip("Lightning scales gradients on CUDA alone")
    student = analogize(teacher, "paper_resnet32", [X])
    before = copy.deepcopy(student.state_dict())
    distill(
        student, teacher, loader(), epochs=1, accelerator=accelerator, precision=precision, **QUIET
    )
    assert not same(student.state_dict(), before)
    assert all(v.isfinite().all() for v in student.state_dict().values() if v.is_floating_point())


def test_features_averages_and_several_draws(teacher: nn.Module, accelerator: str) -> None:
    student = analogize(teacher, "paper_resnet32", [X])
    before = copy.deepcopy(student.state_dict())
    options: dict[str, Any] = {"features": 0.1, "draws": 2, "ema": 0.9, **QUIET}
    matched = copy.deepcopy(student)  # Features are matched region by region.
    distill(student, matched, loader(), loader(), epochs=1, accelerator=accelerator, **options)
    assert not same(student.state_dict(), before)
    assert not any(op.mode for op in operators(student))


def test_the_three_stages(teacher: nn.Module, accelerator: str) -> None:
    found = [
        train_robust(
            copy.deepcopy(teacher),
            "paper_resnet32",
            loader(),
            calibration=[X],
            epochs=(1, 1, 1),
            accelerator=accelerator,
            chips=0,
            **QUIET,
        )
        for _ in range(2)
    ]
    assert same(found[0].state_dict(), found[1].state_dict())
    low, high = operators(found[0])[0].array.range
    weight = operators(found[0])[0].stored.value()
    assert low <= weight.min()
    assert weight.max() <= high


def test_the_same_range_is_chosen(teacher: nn.Module, device: torch.device) -> None:
    clean = teacher.double().eval()
    x = X.double()
    data = [(x, clean(x).argmax(1))]
    options: dict[str, Any] = {"target": load_target("paper_resnet32"), "instances": 3}
    here = choose_range(clean, data, (1.0, 3.0), 0.1, **options)
    there = choose_range(copy.deepcopy(clean).to(device), data, (1.0, 3.0), 0.1, **options)
    assert there.best.multiple == here.best.multiple
    assert [t.noisy for t in there.trials] == pytest.approx([t.noisy for t in here.trials])


def test_learned_ranges_are_trained(
    accelerator: str, teacher: nn.Module, device: torch.device
) -> None:
    student = analogize(teacher, "afm_2025", [X])
    before = {name: value.detach().clone() for name, value in learned_ranges(student).items()}
    assert before
    distill(student, teacher, loader(), epochs=1, accelerator=accelerator, **QUIET)
    after = learned_ranges(student)
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    moved = copy.deepcopy(student).to(device).eval()
    assert all(value.device == device for value in learned_ranges(moved).values())
    with torch.no_grad(), noise_mode(moved, "off"), noise_mode(student.eval(), "off"):
        difference = (moved(X.to(device)).cpu() - student(X)).abs()
    # float32 sums that fall on the other side of an edge move by a step of 8 bits: rarely.
    assert difference.mean() < 1e-3


def test_a_target_that_only_quantizes(
    device: torch.device,
    accelerator: str,
    teacher: nn.Module,
    quantized: Callable[..., Any],
) -> None:
    student = analogize(teacher, quantized(6), [X])
    before = copy.deepcopy(student.state_dict())
    distill(student, teacher, loader(), epochs=1, accelerator=accelerator, **QUIET)
    assert not same(student.state_dict(), before)
    moved = copy.deepcopy(student).to(device).eval()
    assert moved(X.to(device)).shape == (64, 3)
