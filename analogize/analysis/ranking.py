"""What each region's noise costs by itself: Monte Carlo, and an estimate from one backward pass.

For small noise d with variance s^2 a weight, the loss rises by 1/2 sum s^2 H_ww on average. H is
replaced by the generalized Gauss-Newton matrix, which for softmax and cross-entropy is the Fisher
information: its diagonal is the mean square of per-sample gradients for labels that the model
itself draws (Martens, "New insights and perspectives on the natural gradient method", JMLR 21,
2020). Random signs on the samples make one backward pass a batch enough: cross terms vanish on
average (Hutchinson's trick).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip import clip_weights, noise_level, noise_mode, weight_of
from analogize.crossbar.located import located
from analogize.crossbar.ops import operators
from analogize.crossbar.seeds import integer, region_seed
from analogize.devices.cells import Reading
from analogize.devices.random import Draws
from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Result
from analogize.evaluation.inference import unpack
from analogize.evaluation.metrics import MetricLike
from analogize.evaluation.montecarlo import evaluate
from analogize.model.calls import device_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture

_NOISE_DRAWS = 8


class RegionCost(Result):
    """What the noise of one array costs while all others are silent.

    Attributes:
        name: The region, or the first of those that share the array.
        cost: By how much the metric gets worse on average, against no noise at all.
        interval: 95 % confidence interval of ``cost`` over chips.
        estimate: Expected rise of the cross-entropy loss, from one backward pass.
    """

    name: str
    cost: float
    interval: tuple[float, float]
    estimate: float


class Sensitivity(Result):
    """The cost of every region's noise; ``sensitivity`` makes it.

    Attributes:
        rows: One row an array, in the order of the graph.
        metric: The metric's name.
        baseline: The metric without noise.
        instances: Chips a region.
        rank_correlation: Spearman's, between ``cost`` and ``estimate``; None below three regions,
            or where all costs are alike.
    """

    rows: tuple[RegionCost, ...]
    metric: str
    baseline: float
    instances: int
    rank_correlation: float | None

    def plot(self, ax: Axes | None = None) -> Picture:
        """Draw the cost of every region; returns the figure."""
        from analogize.analysis.analysis_plots import draw_sensitivity
        from analogize.evaluation.plot import figure_of

        return figure_of(draw_sensitivity(self, ax))


def sensitivity(
    model: nn.Module,
    data: Iterable[Any],
    metric: MetricLike = "accuracy",
    eta: float | None = None,
    instances: int = 20,
    seed: int = 0,
    *,
    lower_is_better: bool = False,
    progress: bool = True,
) -> Sensitivity:
    """Measure what each region's noise costs alone, and estimate it from one backward pass.

    Args:
        model: A rewritten classifier with outputs (N, classes).
        data: Batches of (inputs, class indices), the same every time round.
        metric: As for ``evaluate``.
        eta: The noise level; None is the target's own.
        instances: Chips a region.
        seed: What the chips' seeds derive from.
        lower_is_better: Whether the metric is a loss.
        progress: Whether to show progress bars.

    Raises:
        EvaluationError: Arguments, data or outputs do not fit.
        ChipError: No analog operator, or no noise whose level could be set.
    """
    sign = -1.0 if lower_is_better else 1.0
    with noise_level(model, eta):
        with only_noisy(model, ()):
            silent = evaluate(model, data, metric, None, 1, seed, progress=False)
        baseline = silent.levels[0].values[0]
        estimates = curvature_costs(model, data, seed)
        rows = []
        for name, estimate in estimates.items():
            with only_noisy(model, (name,)):
                level = evaluate(
                    model, data, metric, None, instances, seed, progress=progress
                ).levels[0]
            mean = sum(level.values) / len(level.values)
            ends = sorted(sign * (baseline - end) for end in level.interval or (mean, mean))
            rows.append(
                RegionCost(
                    name=name,
                    cost=sign * (baseline - mean),
                    interval=(ends[0], ends[1]),
                    estimate=estimate,
                )
            )
    return Sensitivity(
        rows=tuple(rows),
        metric=silent.metric,
        baseline=baseline,
        instances=instances,
        rank_correlation=_rank_correlation(rows),
    )


@contextmanager
def only_noisy(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within the block only the arrays ``names`` are noisy; ranges and converters stay."""
    arrays = _arrays(model)
    before = {name: array.noise for name, (array, _) in arrays.items()}
    try:
        for name, (array, _) in arrays.items():
            array.noise = before[name] if name in names else ()
        _refresh(model)
        yield
    finally:
        for name, (array, _) in arrays.items():
            array.noise = before[name]
        _refresh(model)


def _refresh(model: nn.Module) -> None:
    """Have operators take over their arrays' noise; some of it acts on every product anew."""
    for op in operators(model):
        op.refresh()


def curvature_costs(
    model: nn.Module, data: Iterable[Any], seed: int = 0, *, rounding: bool = False
) -> dict[str, float]:
    """Expected rise of the mean cross-entropy from each array's noise alone, to second order.

    One backward pass over ``data``; see the module's docstring. Targets are not used. With
    ``rounding`` the errors of quantized weights count as well.

    Raises:
        EvaluationError: the outputs are no scores (N, classes).
    """
    model = copy.deepcopy(model).eval()
    # Weights on the edges of their range count as inside, so that none is without gradient.
    clip_weights(model)
    arrays = _arrays(model)
    weights = [weight.requires_grad_() for _, weight in arrays.values()]
    squares = [torch.zeros_like(weight) for weight in weights]
    generator = torch.Generator().manual_seed(region_seed(integer(seed), "labels and signs"))
    device, samples = device_of(model), 0
    with noise_mode(model, "off"), torch.enable_grad():
        for index, batch in enumerate(data):
            call, _, count = unpack(batch, index, device)
            loss = _signed_loss(call(model), generator)
            for square, grad in zip(squares, torch.autograd.grad(loss, weights), strict=True):
                square += grad.square()
            samples += count
    if samples == 0:
        raise EvaluationError("the data hold no sample; give at least one batch")
    return {
        name: 0.5 * _weighted(array, weight.detach(), square / samples, generator, seed, rounding)
        for (name, (array, weight)), square in zip(arrays.items(), squares, strict=True)
    }


def _signed_loss(scores: Any, generator: torch.Generator) -> Tensor:
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        raise EvaluationError("the estimate from a backward pass needs outputs (N, classes)")
    shares = scores.detach().softmax(1).cpu()
    labels = torch.multinomial(shares, 1, generator=generator).squeeze(1).to(scores.device)
    signs = torch.randint(0, 2, (len(scores),), generator=generator).to(scores) * 2 - 1
    return (F.cross_entropy(scores, labels, reduction="none") * signs).sum()


@torch.no_grad()
def _weighted(
    array: WeightArray,
    weight: Tensor,
    square: Tensor,
    generator: torch.Generator,
    seed: int,
    rounding: bool,
) -> float:
    """Sum of ``square`` times the variance of the noise, from draws: any noise model will do."""
    clean = array.clean(weight)
    unit = 1.0 if array.grid is None or array.folded else array.grid.scale
    wanted = weight if rounding else clean * unit
    total = torch.zeros((), dtype=torch.float64)
    for number in range(_NOISE_DRAWS):
        devices = Reading(Draws(f"{seed}/estimate {number}/{array.name}"))
        deviation = array.whole(array.noisy(clean, generator, devices)) * unit - wanted
        total += (deviation.square() * square).sum().double().cpu()
    return float(total) / _NOISE_DRAWS


def _arrays(model: nn.Module) -> dict[str, tuple[WeightArray, Tensor]]:
    """Every array once, with its weight, in the order of the graph."""
    found: dict[str, tuple[WeightArray, Tensor]] = {}
    for op, _, name in located(model):
        found.setdefault(name, (op.array, weight_of(op)))
    return found


def _rank_correlation(rows: Sequence[RegionCost]) -> float | None:
    costs, estimates = [r.cost for r in rows], [r.estimate for r in rows]
    if len(rows) < 3 or len(set(costs)) == 1 or len(set(estimates)) == 1:
        return None
    return float(stats.spearmanr(costs, estimates).statistic)
