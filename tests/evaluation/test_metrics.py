"""Metrics: accuracy, torchmetrics and plain functions, over batches of several sizes."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torchmetrics.classification import MulticlassF1Score

from analogize.errors import EvaluationError
from analogize.evaluation.metrics import Score, make_score

CPU = torch.device("cpu")


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 4), torch.randint(0, 4, (n,))) for n in (5, 3, 8)]


def measure(score: Score, data: list[tuple[Tensor, Tensor]]) -> float:
    score.reset(CPU)
    for outputs, targets in data:
        score.update(outputs, targets, len(targets))
    return score.value()


def test_accuracy_is_the_share_of_largest_scores() -> None:
    data = batches()
    hits = sum(int((o.argmax(1) == t).sum()) for o, t in data)
    # float32 division in torchmetrics
    assert measure(make_score("accuracy"), data) == pytest.approx(hits / 16, rel=1e-7)


def test_accuracy_counts_pixels_too() -> None:
    outputs, targets = torch.randn(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3))
    expected = (outputs.argmax(1) == targets).float().mean().item()
    assert measure(make_score("accuracy"), [(outputs, targets)]) == pytest.approx(expected)


def test_a_torchmetrics_metric_is_cloned() -> None:
    data = batches()
    metric = MulticlassF1Score(4, average="macro")
    metric.update(*data[0])
    before = metric.compute()
    score = make_score(metric)
    reference = MulticlassF1Score(4, average="macro")
    for outputs, targets in data:
        reference.update(outputs, targets)
    assert measure(score, data) == reference.compute().item()
    assert measure(score, data[:1]) == before.item()  # reset in between
    assert metric.compute() == before
    assert score.name == "MulticlassF1Score"


def test_a_function_is_averaged_over_samples_not_batches() -> None:
    data = batches()
    everything = F.cross_entropy(torch.cat([o for o, _ in data]), torch.cat([t for _, t in data]))
    for metric in (
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        lambda o, t: F.cross_entropy(o, t).item(),
    ):
        # Sixteen float32 logarithms, summed in another order.
        assert measure(make_score(metric), data) == pytest.approx(everything.item(), rel=1e-6)


def test_settings_tell_metrics_apart_and_repeat() -> None:
    smooth = functools.partial(F.cross_entropy, label_smoothing=0.1)
    metrics = [
        "accuracy",
        MulticlassF1Score(4),
        MulticlassF1Score(4, average="micro"),
        torchmetrics.MeanSquaredError(),
        F.cross_entropy,
        smooth,
    ]
    settings = [make_score(metric).settings for metric in metrics]
    assert len(set(settings)) == len(settings)
    assert settings == [make_score(metric).settings for metric in metrics]
    assert not any(" at 0x" in text for text in settings)


@pytest.mark.parametrize(
    "metric", ["acuracy", MulticlassF1Score, torchmetrics.MetricCollection([]), 3, None]
)
def test_what_is_no_metric_is_refused(metric: object) -> None:
    with pytest.raises(EvaluationError, match="pass 'accuracy', one torchmetrics metric"):
        make_score(metric)  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [torch.randn(5), torch.randn(5, 1), {"logits": torch.randn(5)}])
def test_accuracy_says_what_scores_it_needs(outputs: object) -> None:
    score = make_score("accuracy")
    score.reset(CPU)
    with pytest.raises(EvaluationError, match=r"scores \(N, classes, \.\.\.\)"):
        score.update(outputs, torch.zeros(5).long(), 5)


def test_accuracy_refuses_another_number_of_classes() -> None:
    score = make_score("accuracy")
    score.reset(CPU)
    score.update(torch.randn(2, 3), torch.tensor([0, 1]), 2)
    with pytest.raises(EvaluationError, match="saw 3 classes, then 4"):
        score.update(torch.randn(2, 4), torch.tensor([0, 1]), 2)


def test_accuracy_of_nan_outputs_is_no_number() -> None:
    outputs = torch.randn(4, 3)
    outputs[2, 1] = torch.nan
    with pytest.raises(EvaluationError, match="outputs hold NaN"):
        measure(make_score("accuracy"), [(outputs, torch.zeros(4).long())])


def test_a_refusing_metric_is_quoted_with_shapes() -> None:
    score = make_score("accuracy")
    score.reset(CPU)
    with pytest.raises(EvaluationError, match=r"accuracy refuses outputs of shape \(5, 4\)"):
        score.update(torch.randn(5, 4), torch.zeros(4).long(), 5)


@pytest.mark.parametrize("stranger", [-1, 4, 9])
def test_accuracy_refuses_targets_that_are_no_class(stranger: int) -> None:
    data = [(torch.randn(3, 4), torch.tensor([0, 3, stranger])), *batches()]
    with pytest.raises(EvaluationError, match="no class index from 0 to 3"):
        measure(make_score("accuracy"), data)


def test_a_failing_function_is_quoted() -> None:
    score = make_score(F.cross_entropy)
    score.reset(CPU)
    with pytest.raises(EvaluationError, match=r"cross_entropy failed on outputs of shape \(5, 4\)"):
        score.update(torch.randn(5, 4), torch.zeros(3).long(), 5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3), r"tensor of shape \(3,\).*one number: average it"),
        ("high", "returned str"),
        (None, "returned NoneType"),
        (float("nan"), "is nan: look for NaN"),
        (torch.tensor(float("inf")), "is inf"),
    ],
)
def test_a_value_that_is_no_finite_number_is_refused(value: object, message: str) -> None:
    score = make_score(lambda outputs, targets: value)
    score.reset(CPU)
    with pytest.raises(EvaluationError, match=message):
        score.update(torch.zeros(1), torch.zeros(1), 1)


def test_a_metric_per_class_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"shape \(4,\).*average='macro'"):
        measure(make_score(MulticlassF1Score(4, average="none")), batches())
