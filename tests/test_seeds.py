"""A seed is an integer, wherever one is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import analogize as package
from analogize import Chip, analogize, export_onnx, program, read_chip
from analogize.crossbar.ops import operators
from analogize.errors import AnalogizeError

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
DATA = [(X, torch.arange(6) % 3)]


@pytest.fixture
def model() -> Any:
    return analogize(nn.Sequential(nn.Linear(4, 3)), "pcm_4bit", calibration=[X]).eval()


def monte_carlo(function: str, *more: Any, **named: Any) -> Callable[[Any, Any, Path], Any]:
    return lambda m, seed, _: getattr(package, function)(m, DATA, *more, seed=seed, **named)


TAKERS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "program": lambda m, seed, _: program(m, seed),
    "Chip": lambda m, seed, _: Chip({}, seed=seed),
    "Chip.only": lambda m, seed, _: read_chip(m).only("0", seed=seed),
    "export_onnx": lambda m, seed, path: export_onnx(m, path / "m.onnx", X, noise=seed),
    "evaluate": monte_carlo("evaluate", eta=0.01, instances=1, progress=False),
    "sensitivity": monte_carlo("sensitivity", instances=1, progress=False),
    "bias_variance": monte_carlo("bias_variance", instances=2),
    "mutual_information": monte_carlo("mutual_information", instances=2),
    "compare": lambda m, seed, _: package.compare(
        m, m, DATA, eta=0.01, instances=2, seed=seed, progress=False
    ),
    "distill": lambda m, seed, _: package.distill(m, None, DATA, epochs=1, seed=seed, alpha=0),
    "adapt": lambda m, seed, _: package.adapt(m, [X], nn.Linear(4, 3), seed=seed),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    "wrong", [True, False, np.bool_(True), torch.tensor(True), 1.0, "1", float("nan")], ids=repr
)
def test_what_is_no_integer_is_refused(taker: str, wrong: Any, model: Any, tmp_path: Path) -> None:
    program(model, 0)
    with pytest.raises(AnalogizeError, match="integer"):
        TAKERS[taker](model, wrong, tmp_path)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=repr)
def test_integers_of_other_libraries_are_integers(number: Any, model: Any) -> None:
    program(model, 3)
    expected = operators(model)[0].array.chip
    assert expected is not None
    program(model, number)
    assert operators(model)[0].array.chip.equal(expected)  # type: ignore[union-attr]
    curves = [
        package.evaluate(
            model, DATA, eta=0.1, instances=1, seed=seed, progress=False
        ).model_dump_json()
        for seed in (3, number)
    ]
    assert curves[0] == curves[1]
