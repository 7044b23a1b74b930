"""Mutual information between a noisy network's input and output (the paper, section 4.2).

X is uniform over the inputs given, Y the output of a random chip. Three estimates, in nats:

    binned      equations 6 and 7: I = H(Y) - H(Y|X), Y in a few bins a coordinate
    corrected   the same, with Grassberger's entropies in place of equation 7
    neighbours  from distances between outputs, without bins

Binning in ten dimensions meets more cells than there are chips, so equation 7 understates H(Y|X)
much more than H(Y), and the binned estimate ends above zero even where Y ignores X; how far above
is ``InformationRow.floor``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analogize.analysis.chip_outputs import Output, chip_outputs, parts, softmax
from analogize.analysis.entropy import binned_information, grassberger, plug_in
from analogize.analysis.neighbours import local_information
from analogize.crossbar.chip import noise_level, noise_mode
from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Estimate, Result, error_of_mean
from analogize.evaluation.inference import undisturbed
from analogize.evaluation.montecarlo import check_arguments, noise_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture

Array = NDArray[Any]


class InformationRow(Result):
    """Estimates of I(X;Y) in nats at one noise level.

    Attributes:
        eta: The noise level asked for; None is the target's own.
        binned: Equations 6 and 7.
        corrected: The same bins with Grassberger's entropy.
        neighbours: Ross's nearest-neighbour estimate.
        floor: What ``binned`` gives when outputs are dealt out to inputs at random: its bias where
            the truth is zero.
    """

    eta: float | None
    binned: Estimate
    corrected: Estimate
    neighbours: Estimate
    floor: float


class Information(Result):
    """I(X;Y) over noise levels; ``mutual_information`` makes it.

    Attributes:
        rows: One row a level, in the order asked for.
        reference: I(X;Y) of each estimator without noise, by which Fig. 2(b) divides.
        instances: Chips a level.
        samples: Number of inputs.
        bins: Bins a coordinate.
        seed: What the chips' seeds derive from.
        output: The output function's name.
    """

    rows: tuple[InformationRow, ...]
    reference: dict[str, float]
    instances: int
    samples: int
    bins: int
    seed: int
    output: str

    def normalized(self, estimator: str = "binned") -> list[Estimate]:
        """One estimate a level over the same estimator's value without noise.

        Raises:
            EvaluationError: an unknown estimator, or nothing to divide by.
        """
        if estimator not in self.reference:
            raise EvaluationError(
                f"no estimator {estimator!r}; there are {', '.join(self.reference)}"
            )
        if not self.reference[estimator] > 0:
            raise EvaluationError(
                f"without noise the output tells nothing of the input ({estimator} gives "
                f"{self.reference[estimator]:g}), so nothing can be normalized by it"
            )
        return [getattr(row, estimator).scaled(1 / self.reference[estimator]) for row in self.rows]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a level: values in nats and their standard errors."""
        found = []
        for row in self.rows:
            cells: dict[str, Any] = {"eta": row.eta, "floor": row.floor}
            for name in self.reference:
                estimate: Estimate = getattr(row, name)
                cells |= {name: estimate.value, f"{name}_error": estimate.error}
            found.append(cells)
        return found

    def plot(self, ax: Axes | None = None) -> Picture:
        """Draw the normalized estimates, as in Fig. 2(b); returns the figure."""
        from analogize.analysis.analysis_plots import draw_information
        from analogize.evaluation.plot import figure_of

        return figure_of(draw_information(self, ax))


def mutual_information(
    model: nn.Module,
    data: Iterable[Any],
    eta: float | Sequence[float | None] | None = None,
    samples: int = 200,
    instances: int = 100,
    bins: int = 4,
    output: Output = softmax,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    neighbours: int = 3,
    seed: int = 0,
) -> Information:
    """Estimate how much a noisy network's output tells about its input (equations 6 and 7).

    Every estimate holds for the inputs given: none can exceed log(samples). Standard errors come
    from leaving out chips and inputs; they do not include the estimators' own bias.

    Args:
        model: A rewritten model.
        data: Batches of (inputs, targets); the first ``samples`` inputs are used, so give them in
            random order.
        eta: Noise levels; None is the target's own.
        samples: How many inputs.
        instances: Chips a level; more than ``neighbours``.
        bins: Bins a coordinate of the output.
        output: What is made of the model's outputs.
        limits: The interval that the bins divide; values beyond fall into the outer bins.
        neighbours: k of the nearest-neighbour estimate.
        seed: What the chips' seeds derive from.

    Returns:
        One row a level.

    Raises:
        EvaluationError: Arguments, data or outputs do not fit.
        ChipError: No analog operator, or no noise whose level could be set.
    """
    etas = noise_levels(eta)
    seed = check_arguments(data, instances, seed)
    _check(samples, instances, bins, limits, neighbours)
    seeds = [chip_seed(seed, k) for k in range(instances)]

    def outputs(noisy: bool = True) -> Array:
        found = [
            chip_outputs(model, part, seeds, output)
            if noisy
            else part.clean.expand(instances, *part.clean.shape)
            for part in parts(model, take(data, samples), instances, output)
        ]
        return torch.cat(found, dim=1).double().cpu().numpy()  # (chips, samples, values)

    row = partial(_row, bins=bins, limits=limits, neighbours=neighbours, seed=seed)
    with noise_mode(model, "programmed"), undisturbed(model):
        rows = []
        for level in etas:
            with noise_level(model, level):
                rows.append(row(level, outputs()))
        clean = next((r for r in rows if r.eta == 0), None)
        if clean is None:
            # Not noise_level(0): device models have no level that could be set.
            clean = row(0.0, outputs(noisy=False))
    reference = {n: getattr(clean, n).value for n in ("binned", "corrected", "neighbours")}
    return Information(
        rows=tuple(rows),
        reference=reference,
        instances=instances,
        samples=samples,
        bins=bins,
        seed=seed,
        output=getattr(output, "__name__", type(output).__name__),
    )


def _row(
    level: float | None,
    y: Array,
    bins: int,
    limits: tuple[float, float],
    neighbours: int,
    seed: int,
) -> InformationRow:
    """Every estimate from outputs y (chips, samples, values)."""
    cells = to_cells(y, bins, limits)
    shuffled = np.random.default_rng(seed).permutation(cells.ravel()).reshape(cells.shape)
    local = torch.from_numpy(local_information(y, neighbours))
    return InformationRow(
        eta=level,
        binned=binned_information(cells, plug_in),
        corrected=binned_information(cells, grassberger),
        neighbours=Estimate(
            value=float(local.mean()),
            chips=error_of_mean(local.mean(1)),
            samples=error_of_mean(local.mean(0)),
        ),
        floor=binned_information(shuffled, plug_in).value,
    )


def to_cells(y: Array, bins: int, limits: tuple[float, float]) -> Array:
    """The cell of every output: numbers from 0, shape (chips, samples), for y (..., values)."""
    low, high = limits
    codes = np.clip(np.floor((y - low) / (high - low) * bins), 0, bins - 1).astype(np.int16)
    flat = codes.reshape(-1, codes.shape[-1])
    found = np.unique(flat, axis=0, return_inverse=True)[1]
    return found.reshape(y.shape[:-1])


def take(data: Iterable[Any], samples: int) -> Iterator[Any]:
    """The batches that hold the first ``samples`` samples, the last one cut.

    Raises:
        EvaluationError: the data hold fewer.
    """
    left = samples
    for batch in data:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            yield batch  # refused by whoever unpacks it
            return
        count = _length(batch)
        yield batch if count <= left else _cut(batch, left)
        left -= min(count, left)
        if left == 0:
            return
    raise EvaluationError(f"the data hold {samples - left} samples, fewer than the {samples} asked")


def _length(value: Any) -> int:
    if isinstance(value, Tensor):
        return len(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return _length(value[0])


def _cut(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[:count]
    if isinstance(value, Mapping):
        return {key: _cut(part, count) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cut(part, count) for part in value)
    return value


def _check(
    samples: int, instances: int, bins: int, limits: tuple[float, float], neighbours: int
) -> None:
    if samples < 2 or bins < 2 or not limits[0] < limits[1]:
        raise EvaluationError(
            f"samples ({samples}) and bins ({bins}) must be at least 2, and limits {limits} an "
            "interval"
        )
    if not 1 <= neighbours < instances:
        raise EvaluationError(
            f"neighbours is {neighbours} and instances {instances}: every output needs so many "
            "others of the same input"
        )
