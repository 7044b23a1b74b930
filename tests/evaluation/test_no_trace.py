"""An evaluation leaves model, chips and random state as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analogize import Target, noise_mode, program
from analogize.crossbar.ops import operators
from analogize.errors import ChipError
from analogize.evaluation.montecarlo import evaluate

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]
Make = Callable[..., Any]


def test_flags_modes_chip_and_random_state(analog: nn.Module, batches: Batches) -> None:
    analog.train()
    analog.get_submodule("norm").eval()
    flags = [module.training for module in analog.modules()]
    program(analog, 12)
    chips = [op.array.chip for op in operators(analog)]
    state = torch.get_rng_state()
    with noise_mode(analog, "off"):
        evaluate(analog, batches, instances=2)
        assert {op.mode for op in operators(analog)} == {"off"}
    assert [module.training for module in analog.modules()] == flags
    assert all(op.array.chip is c for op, c in zip(operators(analog), chips, strict=True))
    assert {op.mode for op in operators(analog)} == {None}
    assert torch.equal(torch.get_rng_state(), state)


def test_no_chip_stays_none(analog: nn.Module, batches: Batches) -> None:
    evaluate(analog, batches, instances=2)
    assert all(op.array.chip is None for op in operators(analog))


def test_an_outgrown_chip_stays_invalid(analog: nn.Module, batches: Batches) -> None:
    program(analog, 1)
    with torch.no_grad():
        next(analog.parameters()).add_(0.01)
    evaluate(analog, batches, instances=2)
    with noise_mode(analog, "programmed"), pytest.raises(ChipError, match="changed after"):
        analog(batches[0][0])


def test_buffers_and_gradients(analog: nn.Module, batches: Batches) -> None:
    before = {k: v.clone() for k, v in analog.train().state_dict().items()}
    evaluate(analog, batches, eta=[0.0, 0.1], instances=2)
    assert all(torch.equal(v, before[k]) for k, v in analog.state_dict().items())
    assert all(p.grad is None for p in analog.parameters())


def test_after_an_interruption(analog: nn.Module, batches: Batches, counted: Make) -> None:
    analog.train()
    before = [op.array.noise for op in operators(analog)]
    with pytest.raises(KeyboardInterrupt):
        evaluate(analog, counted(batches, 5), eta=0.2, instances=2)
    assert all(module.training for module in analog.modules())
    assert all(op.array.chip is None and op.mode is None for op in operators(analog))
    assert [op.array.noise for op in operators(analog)] == before


def test_another_device_runs_a_copy(analog: nn.Module, batches: Batches) -> None:
    program(analog, 12)
    chip = operators(analog)[0].array.chip
    result = evaluate(analog, batches, instances=2, device="cpu")
    assert result == evaluate(analog, batches, instances=2)
    assert operators(analog)[0].array.chip is chip


def test_standard_output(
    analog: nn.Module, batches: Batches, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(analog, batches, instances=2)
    assert capsys.readouterr().out == ""
