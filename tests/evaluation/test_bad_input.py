"""Wrong arguments, data, models and metrics are refused, before the first chip where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from analogize import Target, analogize
from analogize.errors import CalibrationError, ChipError, EvaluationError
from analogize.evaluation.montecarlo import evaluate

Batches = list[tuple[Tensor, Tensor]]
MakeTarget = Callable[..., Target]
Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": 0}, "instances is 0; it must be an integer of at least 1"),
        ({"instances": 2.5}, "instances is 2.5"),
        ({"seed": "a"}, "seed 'a' is a str; give an integer"),
        ({"eta": []}, "eta is empty"),
        ({"eta": -0.1}, "eta -0.1 must be a finite number"),
        ({"eta": [0.1, float("nan")]}, "eta nan must be"),
        ({"eta": float("inf")}, "eta inf must be"),
        ({"eta": ["much"]}, "eta 'much' is no number"),
        ({"eta": [0.1, None, 0.1]}, "eta holds 0.1 twice"),
        ({"metric": "acuracy"}, "metric 'acuracy' cannot be used"),
    ],
)
def test_arguments(
    arguments: dict[str, Any], message: str, analog: nn.Module, batches: Batches
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(analog, batches, **arguments)


@pytest.mark.parametrize("eta", [np.array([0.1, 0.2]), torch.tensor([0.25, 0.5]), (0.1, 0.2)])
def test_any_sequence_of_levels(eta: Any, analog: nn.Module, batches: Batches) -> None:
    result = evaluate(analog, batches, eta=eta, instances=1)
    assert [level.eta for level in result.levels] == [float(e) for e in eta]


@pytest.mark.parametrize("eta", [np.float64(0.1), torch.tensor(0.25)])
def test_any_number_as_level(eta: Any, analog: nn.Module, batches: Batches) -> None:
    assert evaluate(analog, batches, eta=eta, instances=1).levels[0].eta == float(eta)


def test_data_that_cannot_be_gone_through_again(analog: nn.Module, batches: Batches) -> None:
    with pytest.raises(EvaluationError, match="list_iterator, which is used up after one chip"):
        evaluate(analog, iter(batches))
    with pytest.raises(EvaluationError, match=r"data set TensorDataset.*DataLoader"):
        evaluate(analog, TensorDataset(*batches[0]))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="of type int"):
        evaluate(analog, 3)  # type: ignore[arg-type]


def test_empty_data(analog: nn.Module) -> None:
    with pytest.raises(EvaluationError, match="the data hold no sample"):
        evaluate(analog, [])
    with pytest.raises(EvaluationError, match="batch 0 holds no sample"):
        evaluate(analog, [(torch.zeros(0, 1, 6, 6), torch.zeros(0).long())])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 1, 6, 6), r"batch 0 is of shape \(2, 1, 6, 6\).*\(inputs, targets\)"),
        ((torch.zeros(2, 1, 6, 6),), "batch 0 is 1 parts"),
        ((1, 2, 3), "batch 0 is 3 parts"),
    ],
)
def test_batches_that_are_no_pairs(batch: Any, message: str, analog: nn.Module) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(analog, [batch])


def test_inputs_the_model_cannot_take(analog: nn.Module, batches: Batches) -> None:
    wrong = (torch.zeros(2, 3, 6, 6), torch.zeros(2).long())
    with pytest.raises(
        EvaluationError, match=r"fails on batch 3, inputs of shape \(2, 3, 6, 6\).*chip 0"
    ):
        evaluate(analog, [*batches, wrong])


def test_targets_of_another_length(analog: nn.Module, batches: Batches) -> None:
    with pytest.raises(EvaluationError, match=r"refuses outputs of shape \(20, 5\)"):
        evaluate(analog, [(batches[0][0], batches[0][1][:3])])


def test_a_metric_that_is_nan_names_the_chip(analog: nn.Module, batches: Batches) -> None:
    broken = [(x.clone(), y) for x, y in batches]
    broken[1][0][0] = torch.nan
    with pytest.raises(EvaluationError, match=r"NaN.*\(chip 0, seed \d+, at eta = 0\.1\)"):
        evaluate(analog, broken, eta=0.1)


def test_a_clean_model(batches: Batches, net: Make) -> None:
    with pytest.raises(ChipError, match="rewrite it with analogize"):
        evaluate(net(), batches)


def test_a_level_that_cannot_be_set_fails_before_the_first_chip(
    batches: Batches, net: Make, counted: Make
) -> None:
    data = counted(batches)
    with pytest.raises(ChipError, match=r"no meaning for its noise models \(none\)"):
        evaluate(analogize(net(), "ideal"), data, eta=[0.0, 0.1])
    assert data.given == 0


def test_an_uncalibrated_model(quantized: MakeTarget, batches: Batches, net: Make) -> None:
    with pytest.raises(CalibrationError, match="never calibrated"):
        evaluate(analogize(net(), quantized()), batches)
