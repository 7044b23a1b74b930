"""Bias-variance decomposition of a noisy network's squared loss (the paper, section 4.1).

With residuals r_i = f(W_i; x) - y of n chips, and means over samples and outputs understood::

    mse    = 1/n sum_i <r_i, r_i>                      the loss of a chip, on average
    l_bias = 1/(n (n - 1)) sum_{i != k} <r_i, r_k>     eq. 4 without its bias
    l_var  = mse - l_bias                              eq. 3 with n - 1 instead of n

Equation 4 as printed squares an average over n chips, which still holds 1/n of the variance, so it
overstates l_bias by l_var / n; equation 3 understates l_var by the same. Leaving out the products
of a chip with itself removes both, and l_bias + l_var = mse stays an identity on the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize.analysis.chip_outputs import Output, Part, chip_outputs, parts, softmax
from analogize.crossbar.chip import noise_level, noise_mode
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Estimate, Result, error_of_mean, jackknife_error
from analogize.evaluation.inference import undisturbed
from analogize.evaluation.montecarlo import check_arguments, noise_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture


class DecompositionRow(Result):
    """The terms of equation 1 at one noise level, averaged over samples and outputs.

    Attributes:
        eta: The noise level asked for; None is the target's own.
        variance: l_var, the variance over chips.
        bias: l_bias, the squared error of the mean over chips.
        mse: l_var + l_bias, the mean squared error of a chip.
        pretrained: l_pretrained, the squared error without noise.
        accuracies: Top-1 accuracy of every chip; empty where targets are no class indices.
    """

    eta: float | None
    variance: Estimate
    bias: Estimate
    mse: Estimate
    pretrained: Estimate
    accuracies: tuple[float, ...] = ()


class Decomposition(Result):
    """l_var, l_bias and l_pretrained over noise levels; ``bias_variance`` makes it.

    Attributes:
        rows: One row a level, in the order asked for.
        instances: Chips a level.
        samples: Number of samples.
        seed: What the chips' seeds derive from.
        output: The output function's name.
    """

    rows: tuple[DecompositionRow, ...]
    instances: int
    samples: int
    seed: int
    output: str

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a level: values, standard errors, and values over l_pretrained."""
        found = []
        for row in self.rows:
            cells: dict[str, Any] = {"eta": row.eta}
            for name in ("variance", "bias", "mse", "pretrained"):
                estimate: Estimate = getattr(row, name)
                cells |= {name: estimate.value, f"{name}_error": estimate.error}
                if row.pretrained.value > 0:
                    cells[f"{name}_normalized"] = estimate.value / row.pretrained.value
            if row.accuracies:
                cells["accuracy"] = sum(row.accuracies) / len(row.accuracies)
            found.append(cells)
        return found

    def crossover(self) -> float | None:
        """The level at which l_var overtakes l_bias, between rows linearly; None if it never does.

        Section 4.1 finds sigma_N / sigma_W = 0.6 for LeNet-5.
        """
        gaps = [
            (row.eta, row.variance.value - row.bias.value)
            for row in self.rows
            if row.eta is not None
        ]
        gaps.sort()
        for (low, before), (high, after) in pairwise(gaps):
            if before <= 0 < after:
                return low + (high - low) * -before / (after - before)
        return None

    def plot(self, ax: Axes | None = None) -> Picture:
        """Draw the three terms over l_pretrained, as in Fig. 2(a); returns the figure."""
        from analogize.analysis.analysis_plots import draw_decomposition
        from analogize.evaluation.plot import figure_of

        return figure_of(draw_decomposition(self, ax))


def bias_variance(
    model: nn.Module,
    data: Iterable[Any],
    eta: float | Sequence[float | None] | None = None,
    instances: int = 100,
    output: Output = softmax,
    *,
    seed: int = 0,
) -> Decomposition:
    """Split the squared loss of a noisy network into variance and bias (equations 1 to 5).

    Chips are those that ``evaluate`` draws with the same ``seed``. Estimates are unbiased for a
    finite number of chips, so l_bias of a linear model has l_pretrained as its expectation; it can
    fall below l_pretrained, or below zero, within its standard error. Standard errors come from a
    jackknife over chips and from the spread over samples.

    Args:
        model: A rewritten model.
        data: Batches of (inputs, targets), the same every time round. Integer targets are class
            indices and become one-hot vectors; others have the outputs' shape.
        eta: Noise levels; None is the target's own. sigma_N / sigma_W of the fixed-SNR model.
        instances: Chips a level, n of equation 2; at least 3.
        output: What is compared with the targets, made of the model's outputs.
        seed: What the chips' seeds derive from.

    Returns:
        One row a level.

    Raises:
        EvaluationError: Arguments, data or outputs do not fit.
        ChipError: No analog operator, or no noise whose level could be set.
    """
    etas = noise_levels(eta)
    seed = check_arguments(data, instances, seed)
    if instances < 3:
        raise EvaluationError(
            f"instances is {instances}; a variance over chips and its error need at least 3"
        )
    rows: list[DecompositionRow] = []
    sizes: set[int] = set()
    seeds = [chip_seed(seed, k) for k in range(instances)]
    with noise_mode(model, "programmed"), undisturbed(model):
        for level in etas:
            with noise_level(model, level):
                terms = _Terms(instances)
                for part in parts(model, data, instances, output):
                    terms.add(part, chip_outputs(model, part, seeds, output))
            rows.append(terms.row(level))
            sizes.add(terms.count)
    if len(sizes) > 1:
        raise EvaluationError(
            f"the data held {min(sizes)} to {max(sizes)} samples: every level must see the same"
        )
    name = getattr(output, "__name__", type(output).__name__)
    return Decomposition(
        rows=tuple(rows), instances=instances, samples=sizes.pop(), seed=seed, output=name
    )


class _Terms:
    """Sums over the parts of the data, from which all terms and their errors follow.

    ``gram[i, k]`` is sum over samples of <r_i, r_k>: its diagonal gives mse, the rest l_bias.
    """

    def __init__(self, chips: int) -> None:
        self.chips, self.count = chips, 0
        self.gram = torch.zeros(chips, chips, dtype=torch.float64)
        self.hits: Tensor | None = torch.zeros(chips, dtype=torch.float64)
        self.per_sample: list[Tensor] = []

    def add(self, part: Part, outputs: Tensor) -> None:
        """Take in ``outputs`` (chips, samples, values) of one part."""
        wanted = torch.cat([_as_values(t, part.shape) for t in part.targets]).to(outputs)
        if wanted.shape != part.clean.shape:
            raise EvaluationError(
                f"outputs of shape {tuple(part.clean.shape)} cannot be compared with targets of "
                f"shape {tuple(wanted.shape)}"
            )
        residuals = (outputs - wanted).double()  # (chips, samples, values)
        values = residuals.shape[-1]
        flat = residuals.flatten(1)
        self.gram += (flat @ flat.T).cpu() / values
        squares = residuals.square().sum(0).mean(-1)
        total = residuals.sum(0).square().mean(-1)
        clean = (part.clean - wanted).double().square().mean(-1)
        n = self.chips
        mse, bias = squares / n, (total - squares) / (n * (n - 1))
        self.per_sample.append(torch.stack([mse - bias, bias, mse, clean]).cpu())
        self.count += part.clean.shape[0]
        self._count_hits(part, outputs)

    def _count_hits(self, part: Part, outputs: Tensor) -> None:
        if self.hits is None or len(part.shape) != 1 or not all(map(_are_classes, part.targets)):
            self.hits = None
            return
        labels = torch.cat(list(part.targets)).to(outputs.device)
        self.hits += (outputs.argmax(-1) == labels).sum(1).cpu()

    def row(self, eta: float | None) -> DecompositionRow:
        """All terms and their errors."""
        n, gram = self.chips, self.gram / self.count
        own, sums = gram.diagonal(), gram.sum(1)
        mse, bias = own.mean(), (sums.sum() - own.sum()) / (n * (n - 1))
        mse_without = (own.sum() - own) / (n - 1)
        pairs = sums.sum() - own.sum() - 2 * (sums - own)
        bias_without = pairs / ((n - 1) * (n - 2))
        left_out = [mse_without - bias_without, bias_without, mse_without, torch.zeros(0)]
        samples = torch.cat(self.per_sample, dim=1)  # (terms, samples)
        values = [mse - bias, bias, mse, samples[3].mean()]
        names = ("variance", "bias", "mse", "pretrained")
        estimates = {
            name: Estimate(
                value=float(value),
                chips=jackknife_error(without),
                samples=error_of_mean(spread),
            )
            for name, value, without, spread in zip(names, values, left_out, samples, strict=True)
        }
        hits = () if self.hits is None else tuple((self.hits / self.count).tolist())
        return DecompositionRow(eta=eta, **estimates, accuracies=hits)


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def _as_values(targets: Any, shape: tuple[int, ...]) -> Tensor:
    """Targets (samples, values): one-hot where they are class indices."""
    if not isinstance(targets, Tensor):
        raise EvaluationError(
            f"targets of type {type(targets).__name__} cannot be compared with outputs; give a "
            "tensor of class indices or of values"
        )
    if not targets.is_floating_point() and targets.ndim == len(shape):
        classes = shape[0] if shape else 1
        if bool((targets < 0).any()) or bool((targets >= classes).any()):
            raise EvaluationError(f"class indices must lie in 0 to {classes - 1}, the outputs' own")
        return F.one_hot(targets.long(), classes).movedim(-1, 1).flatten(1).double()
    return targets.reshape(targets.shape[0], -1).double()
