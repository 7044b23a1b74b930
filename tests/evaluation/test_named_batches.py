"""Batches that are mappings with labels, and outputs with logits: Hugging Face's habits."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, calibrate, distill, distillation_loss, evaluate
from analogize.model.scores import scored


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Tagger(nn.Module):
    """Scores for every token, classes last; a loss where labels are given."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Any = None) -> Output:
        assert labels is None, "labels are the metric's, not the model's"
        hidden = self.embed(input_ids) * attention_mask[..., None]
        return Output(self.head(hidden.mean(1) if self.pooled else hidden))


def batches(pooled: bool) -> list[Any]:
    g = torch.Generator().manual_seed(0)
    found: list[Any] = []
    for _ in range(2):
        ids = torch.randint(20, (6, 5), generator=g)
        mask = (torch.arange(5) < torch.randint(2, 6, (6, 1), generator=g)).long()
        labels = ids[:, 0] % 3 if pooled else torch.where(mask.bool(), ids % 3, -100)
        found.append(UserDict(input_ids=ids, attention_mask=mask, labels=labels))
    return found


@pytest.mark.parametrize("pooled", [True, False])
def test_accuracy_is_that_of_the_labelled_positions(pooled: bool) -> None:
    model, data = Tagger(pooled).eval(), batches(pooled)
    analog = analogize(model, "ideal", calibration=data)

    right = total = 0
    for batch in data:
        named = {name: batch[name] for name in ("input_ids", "attention_mask")}
        kept = batch["labels"] != -100
        right += int((model(**named).logits.argmax(-1)[kept] == batch["labels"][kept]).sum())
        total += int(kept.sum())
    found = evaluate(analog, data, instances=2, progress=False)
    assert found.levels[0].mean == pytest.approx(right / total)
    assert found.samples == 12

    metric = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    assert evaluate(analog, data, metric, instances=2, progress=False).levels[
        0
    ].mean == pytest.approx(right / total)


def test_a_function_still_gets_the_outputs_themselves() -> None:
    data = batches(True)
    analog = analogize(Tagger(True).eval(), "ideal", calibration=data)

    def largest(outputs: Output, targets: Tensor) -> Tensor:
        return outputs.logits.max()

    assert evaluate(analog, data, largest, instances=1, progress=False).levels[0].values


def test_converters_are_calibrated_on_named_inputs() -> None:
    data = batches(True)
    analog = analogize(Tagger(True).eval(), "pcm_8bit", calibration=data[:1])
    before = evaluate(analog, data, instances=1, progress=False)
    calibrate(analog, data)
    assert before.samples == 12


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("pooled", [True, False])
def test_distillation_learns_from_them(pooled: bool) -> None:
    torch.manual_seed(0)
    teacher, data = Tagger(pooled), batches(pooled)
    student = analogize(teacher, "ideal", calibration=data)
    before = student.head.weight.clone()
    distill(
        student,
        teacher,
        [dict(batch) for batch in data],
        [dict(batch) for batch in data],
        epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    assert not torch.equal(student.head.weight, before)


def test_the_loss_leaves_out_what_has_no_label() -> None:
    logits, soft = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    labels = torch.tensor([[0, 1, -100, 2], [-100, 2, 1, -100]])
    z, y = scored(Output(logits), labels)
    t, _ = scored(Output(soft), labels)
    assert z.shape == (5, 3)
    hard = F.cross_entropy(logits.flatten(0, 1), labels.flatten())  # ignores -100 by itself
    assert distillation_loss(z, None, y, alpha=0).item() == pytest.approx(hard.item())
    assert torch.equal(t, soft[labels != -100])


def test_tensors_and_other_outputs_pass_unchanged() -> None:
    outputs, labels = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    assert scored(outputs, labels)[0] is outputs
    assert scored(("a", 1), labels)[0] == ("a", 1)
