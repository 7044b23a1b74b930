"""What one pass over the data amounts to: a torchmetrics metric, a mean, or top-1 accuracy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from analogize.errors import AnalogizeError, EvaluationError
from analogize.evaluation.hits import pack
from analogize.model.scores import scored

MetricLike = str | torchmetrics.Metric | Callable[[Any, Any], Any]


class Score(Protocol):
    """Accumulates one value over the batches of one pass.

    Attributes:
        name: The metric's short name.
        settings: Name and settings, so that two runs can be told apart.
        bounds: The least and the largest value there can be, where they are known.
    """

    name: str
    settings: str
    bounds: tuple[float, float] | None

    def reset(self, device: torch.device) -> None:
        """Forget every batch; tensors will come from ``device``."""

    def update(self, outputs: Any, targets: Any, count: int) -> None:
        """Take in the outputs and targets of one batch of ``count`` samples."""

    def value(self) -> float:
        """The metric over all batches since ``reset``.

        Raises:
            EvaluationError: it is no single finite number.
        """


def make_score(metric: MetricLike) -> Score:
    """Turn what ``evaluate`` takes as ``metric`` into a ``Score``.

    Raises:
        EvaluationError: it is neither ``"accuracy"``, a torchmetrics metric nor callable.
    """
    # Not `metric == "accuracy"` alone: comparing a torchmetrics metric makes another metric.
    if isinstance(metric, str) and metric == "accuracy":
        return Accuracy()
    if isinstance(metric, torchmetrics.Metric):
        return TorchMetric(metric)
    if callable(metric) and not isinstance(metric, torchmetrics.MetricCollection | type):
        return BatchMean(metric)
    raise EvaluationError(
        f"metric {metric!r} cannot be used: pass 'accuracy', one torchmetrics metric (an instance, "
        "not a class), or a function of (outputs, targets) that returns the batch's mean"
    )


class TorchMetric:
    """A torchmetrics metric, cloned so that the caller's keeps its own state."""

    def __init__(self, metric: torchmetrics.Metric) -> None:
        self._metric = metric.clone()
        # Its value is one chip's, and other ranks have other chips: nothing to add up over ranks.
        self._metric.distributed_available_fn = _never
        self.name = type(metric).__name__
        self.settings = f"{self.name}({_own_settings(metric)})"
        ends = metric.plot_lower_bound, metric.plot_upper_bound
        self.bounds = None if None in ends else (float(ends[0] or 0), float(ends[1] or 0))

    def reset(self, device: torch.device) -> None:
        """Reset the metric and move its state."""
        self._metric.reset()
        self._metric.to(device)

    def update(self, outputs: Any, targets: Any, count: int) -> None:
        """Hand the batch to the metric."""
        outputs, targets = scored(outputs, targets)
        try:
            self._metric.update(outputs, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as cause:
            raise EvaluationError(
                f"metric {self.name} refuses outputs {describe(outputs)} with targets "
                f"{describe(targets)}: {cause}"
            ) from cause

    def value(self) -> float:
        """The metric's ``compute()``."""
        return _finite_scalar(self._metric.compute(), self.name)


class Accuracy:
    """Top-1 accuracy, with the number of classes read off the first outputs."""

    name = settings = "accuracy"
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self) -> None:
        self._classes = 0
        self._score: TorchMetric | None = None
        self._device = torch.device("cpu")
        self._has_nan = self._has_stranger = torch.zeros((), dtype=torch.bool)
        self._hits: list[tuple[Tensor, Tensor]] = []

    def reset(self, device: torch.device) -> None:
        """Forget every batch."""
        self._device, self._hits = device, []
        self._has_nan = self._has_stranger = torch.zeros((), dtype=torch.bool, device=device)
        if self._score is not None:
            self._score.reset(device)

    def update(self, outputs: Any, targets: Any, count: int) -> None:
        """Count the batch's correct predictions."""
        outputs, targets = scored(outputs, targets)
        if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
            raise EvaluationError(
                f"metric 'accuracy' needs scores (N, classes, ...) with at least two classes, and "
                f"the model returned {describe(outputs)}: pass a torchmetrics metric or a function "
                "of (outputs, targets)"
            )
        if self._score is None:
            self._classes = outputs.shape[1]
            self._score = TorchMetric(MulticlassAccuracy(self._classes, average="micro"))
            self._score.name = self.name
            self._score.reset(self._device)
        if outputs.shape[1] != self._classes:
            raise EvaluationError(
                f"metric 'accuracy' saw {self._classes} classes, then {outputs.shape[1]}: every "
                "batch must have the same"
            )
        # The largest of scores that hold NaN is NaN's place, which would pass for a prediction.
        self._has_nan = self._has_nan | outputs.isnan().any()
        self._score.update(outputs, targets, count)
        # Checked at the end of the pass, so that no batch waits for the device.
        self._hits.append((outputs.argmax(1) == targets, targets))
        strange = (targets < 0) | (targets >= self._classes)
        self._has_stranger = self._has_stranger | strange.any()

    def value(self) -> float:
        """Correct predictions over all."""
        if bool(self._has_nan):
            raise EvaluationError("the model's outputs hold NaN, so 'accuracy' means nothing")
        if bool(self._has_stranger):
            raise EvaluationError(
                f"some targets are no class index from 0 to {self._classes - 1}, so 'accuracy' "
                "means nothing: check the labels, or pass a torchmetrics metric with ignore_index"
            )
        assert self._score is not None, "value() follows at least one update()"
        return self._score.value()

    def hits(self) -> str | None:
        """Which samples were right; None where a sample has several predictions."""
        if not self._hits or any(hits.ndim != 1 for hits, _ in self._hits):
            return None
        hits, targets = (torch.cat(parts) for parts in zip(*self._hits, strict=True))
        return pack(hits, targets)


class BatchMean:
    """A function's mean over samples: its value on each batch, weighted by the batch's size."""

    bounds: tuple[float, float] | None = None

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self._total, self._count = 0.0, 0
        inner: Any = function
        keywords: Mapping[str, Any] = {}
        if isinstance(function, functools.partial):
            inner, keywords = function.func, function.keywords
        self.name = str(getattr(inner, "__name__", type(inner).__name__))
        qualified = getattr(inner, "__qualname__", type(inner).__qualname__)
        self.settings = f"{inner.__module__}.{qualified}({_plain(keywords)})"

    def reset(self, device: torch.device) -> None:
        """Forget every batch."""
        self._total, self._count = 0.0, 0

    def update(self, outputs: Any, targets: Any, count: int) -> None:
        """Add the batch's value ``count`` times."""
        try:
            value = self._function(outputs, targets)
        except AnalogizeError:
            raise
        except Exception as cause:
            raise EvaluationError(
                f"metric {self.name} failed on outputs {describe(outputs)} with targets "
                f"{describe(targets)}: {type(cause).__name__}: {cause}"
            ) from cause
        self._total += _finite_scalar(value, self.name) * count
        self._count += count

    def value(self) -> float:
        """The mean over samples."""
        return self._total / self._count


def describe(value: Any) -> str:
    """Shape and type of a batch's part, for error messages."""
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"


def _never() -> bool:
    return False


def _finite_scalar(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise EvaluationError(
            f"metric {name} returned a tensor of shape {tuple(value.shape)}, and evaluate() needs "
            "one number: average it, for example with average='macro' or .mean()"
        )
    try:
        number = float(value)
    except (TypeError, ValueError) as cause:
        raise EvaluationError(
            f"metric {name} returned {type(value).__name__}, and evaluate() needs one number"
        ) from cause
    if not math.isfinite(number):
        raise EvaluationError(
            f"metric {name} is {number}: look for NaN or infinite values in the model's outputs, "
            "or use a metric that is defined on these data"
        )
    return number


def _plain(values: Mapping[str, Any]) -> str:
    """The plain values, sorted by name: the same text in every process."""
    kept = {k: v for k, v in values.items() if isinstance(v, bool | int | float | str | None)}
    return ", ".join(f"{key}={kept[key]!r}" for key in sorted(kept))


def _own_settings(metric: torchmetrics.Metric) -> str:
    """The metric's public settings, without those that every torchmetrics metric has."""
    common = vars(torchmetrics.MeanMetric()).keys() | {"validate_args"}
    own = {k: v for k, v in vars(metric).items() if k not in common and not k.startswith("_")}
    return _plain(own)
