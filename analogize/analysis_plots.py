"""Plots of the analyses, with Matplotlib's object interface: no display, no shared state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from analogize.errors import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.converter_use import ConverterUse
    from analogize.decomposition import Decomposition
    from analogize.information import Information
    from analogize.ranking import Sensitivity

_LEVEL = "noise level"
_TERMS = {"variance": "$l_{var}$", "bias": "$l_{bias}$", "pretrained": "$l_{pretrained}$"}
_ESTIMATORS = {
    "binned": "binned (eqs. 6, 7)",
    "corrected": "binned, Grassberger",
    "neighbours": "nearest neighbours",
}


def new_axes(height: float = 4.0) -> Axes:
    """Axes of a new figure, ``height`` in inches."""
    return Figure(figsize=(6, max(height, 2.5)), layout="constrained").subplots()


def draw_decomposition(result: Decomposition, ax: Axes | None = None) -> Axes:
    """The three terms over l_pretrained with two standard errors from chips, and the accuracy.

    Raises:
        EvaluationError: no numbered level, or l_pretrained is zero.
    """
    rows = sorted((r for r in result.rows if r.eta is not None), key=lambda r: r.eta or 0.0)
    if not rows or not rows[0].pretrained.value > 0:
        raise EvaluationError("nothing to plot: no numbered noise level, or no loss without noise")
    axes = new_axes() if ax is None else ax
    etas = [row.eta or 0.0 for row in rows]
    for name, label in _TERMS.items():
        parts = [getattr(row, name).scaled(1 / row.pretrained.value) for row in rows]
        # l_pretrained is the unit here, and no chip enters it.
        bars = [2 * part.chips for part in parts]
        values = [part.value for part in parts]
        axes.errorbar(etas, values, bars, label=label, marker="o", markersize=3, capsize=2)
    axes.set_xlabel(_LEVEL)
    axes.set_ylabel("loss / $l_{pretrained}$")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    if all(row.accuracies for row in rows):
        _draw_accuracies(axes.twinx(), result)
    return axes


def _draw_accuracies(axes: Axes, result: Decomposition) -> None:
    rows = sorted((r for r in result.rows if r.eta is not None), key=lambda r: r.eta or 0.0)
    means, stds = [], []
    for row in rows:
        n, mean = len(row.accuracies), sum(row.accuracies) / len(row.accuracies)
        means.append(mean)
        stds.append((sum((a - mean) ** 2 for a in row.accuracies) / (n - 1)) ** 0.5)
    etas = [row.eta or 0.0 for row in rows]
    label = "accuracy, ± 1 std"
    axes.errorbar(etas, means, stds, linestyle="--", color="0.4", capsize=2, label=label)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    axes.legend(loc="center left")


def draw_information(result: Information, ax: Axes | None = None) -> Axes:
    """Each estimate over its value without noise with two standard errors, and the binned floor.

    Raises:
        EvaluationError: no numbered level.
    """
    order = sorted(
        (i for i, row in enumerate(result.rows) if row.eta is not None),
        key=lambda i: result.rows[i].eta or 0.0,
    )
    if not order:
        raise EvaluationError("nothing to plot: no numbered noise level")
    axes = new_axes() if ax is None else ax
    etas = [result.rows[i].eta or 0.0 for i in order]
    # An untrained network may put every output into one bin: nothing to divide by.
    known = [name for name, value in result.reference.items() if value > 0]
    for name in known:
        found = result.normalized(name)
        values, bars = [found[i].value for i in order], [2 * found[i].error for i in order]
        label = _ESTIMATORS[name]
        axes.errorbar(etas, values, bars, label=label, marker="o", markersize=3, capsize=2)
    if "binned" in known:
        floor = [result.rows[i].floor / result.reference["binned"] for i in order]
        axes.plot(etas, floor, ":", color="C0", label="binned, outputs shuffled")
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set_xlabel(_LEVEL)
    axes.set_ylabel("I(X; Y) / I(X; Y) without noise")
    axes.grid(alpha=0.3)
    if known:
        axes.legend()
    return axes


def draw_sensitivity(result: Sensitivity, ax: Axes | None = None) -> Axes:
    """One bar a region: what it alone costs, with the 95 % interval; the estimate as a marker."""
    axes = new_axes(0.9 + 0.3 * len(result.rows)) if ax is None else ax
    names = [row.name for row in result.rows]
    costs = [row.cost for row in result.rows]
    bars = [(row.interval[1] - row.interval[0]) / 2 for row in result.rows]
    axes.barh(names, costs, xerr=bars, capsize=2, label="Monte Carlo, 95 % interval")
    largest = max(row.estimate for row in result.rows)
    if largest > 0 and max(costs) > 0:
        marks = [row.estimate * max(costs) / largest for row in result.rows]
        axes.plot(marks, names, "o", color="C1", label="one backward pass, scaled to match")
    axes.invert_yaxis()
    axes.set_xlabel(f"what this region's noise alone costs in {result.metric}")
    axes.grid(alpha=0.3, axis="x")
    axes.legend()
    return axes


def draw_uses(uses: Sequence[ConverterUse]) -> Figure:
    """Histograms on a logarithmic scale, DAC left and ADC right, with the converter's range."""
    names = list(dict.fromkeys(use.region for use in uses))
    figure = Figure(figsize=(10, 0.6 + 1.5 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 2, squeeze=False)
    for use in uses:
        axes = grid[names.index(use.region), int(use.name == "ADC")]
        step = (use.edges[1] - use.edges[0]) / len(use.counts)
        left = [use.edges[0] + k * step for k in range(len(use.counts))]
        axes.bar(left, use.counts, step, align="edge", log=True)
        for end in use.range or ():
            axes.axvline(end, color="C3")
        axes.set_title(f"{use.region}: {use.name}, {use.clipped:.2%} clipped", fontsize=9)
    return figure
