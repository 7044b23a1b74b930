"""Models trained at one noise level and used at another (the paper's Fig. 3b)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Result
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.metrics import MetricLike
from analogize.evaluation.montecarlo import evaluate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture


class Mismatch(Result):
    """One evaluation a training level; ``mismatch`` makes it.

    Attributes:
        evaluations: Evaluations at all inference levels, by training level.
    """

    evaluations: dict[float, Evaluation]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each pair of training and inference level."""
        return [
            {"eta_training": trained} | row
            for trained, evaluation in self.evaluations.items()
            for row in evaluation.to_rows()
        ]

    def plot(self, ax: Axes | None = None) -> Picture:
        """Draw one curve a training level against the inference level; returns the figure."""
        from analogize.evaluation.plot import figure_of, new_axes

        axes = new_axes() if ax is None else ax
        for trained, evaluation in self.evaluations.items():
            evaluation.plot(ax=axes, label=f"trained at {trained:g}")
        return figure_of(axes)


def mismatch(
    model_by_training_eta: Mapping[float, nn.Module],
    data: Iterable[Any],
    eta_inference: Sequence[float],
    metric: MetricLike = "accuracy",
    instances: int = 50,
    seed: int = 0,
    *,
    progress: bool = True,
) -> Mismatch:
    """Measure models at noise levels other than those they were trained at (Fig. 3b).

    All models see the same chips, so that their curves compare sharply.

    Args:
        model_by_training_eta: Rewritten models by the level they were trained at.
        data: Batches of (inputs, targets), the same every time round.
        eta_inference: Noise levels to measure at.
        metric: As for ``evaluate``.
        instances: Chips a level.
        seed: What the chips' seeds derive from.
        progress: Whether to show progress bars.

    Raises:
        EvaluationError: No model, or arguments, data or metric do not fit.
        ChipError: A model has no analog operator, or no noise whose level could be set.
    """
    if not model_by_training_eta:
        raise EvaluationError("no model to compare; give at least one, by its training level")
    return Mismatch(
        evaluations={
            float(trained): evaluate(
                model, data, metric, eta_inference, instances, seed, progress=progress
            )
            for trained, model in model_by_training_eta.items()
        }
    )
