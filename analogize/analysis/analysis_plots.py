"""Plots of the analyses, with Matplotlib's object interface: no display, no shared state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analogize.errors import EvaluationError
from analogize.evaluation.estimate import Estimate
from analogize.evaluation.plot import new_axes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


# A result knows its plot, a plot knows no result: these say what is drawn of each.
class _Level(Protocol):
    @property
    def eta(self) -> float | None: ...


class _Terms(_Level, Protocol):
    @property
    def pretrained(self) -> Estimate: ...
    @property
    def accuracies(self) -> Sequence[float]: ...


class _Estimates(_Level, Protocol):
    @property
    def floor(self) -> float: ...


class _Decomposition(Protocol):
    @property
    def rows(self) -> Sequence[_Terms]: ...


class _Information(Protocol):
    @property
    def rows(self) -> Sequence[_Estimates]: ...
    @property
    def reference(self) -> Mapping[str, float]: ...


class _Cost(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def cost(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def estimate(self) -> float: ...


class _Sensitivity(Protocol):
    @property
    def rows(self) -> Sequence[_Cost]: ...
    @property
    def metric(self) -> str: ...


class _ConverterUse(Protocol):
    @property
    def range(self) -> tuple[float, float] | None: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def edges(self) -> tuple[float, float]: ...


Row = TypeVar("Row", bound=_Level)

_LEVEL = "noise level"
_TERMS = {"variance": "$l_{var}$", "bias": "$l_{bias}$", "pretrained": "$l_{pretrained}$"}
_ESTIMATORS = {
    "binned": "binned (eqs. 6, 7)",
    "corrected": "binned, Grassberger",
    "neighbours": "nearest neighbours",
}


def legend_above(axes: Axes, *others: Axes, columns: int = 2) -> None:
    """One legend for all axes, above the first, where it covers no data."""
    handles: list[Artist] = []
    labels: list[str] = []
    for one in (axes, *others):
        found = one.get_legend_handles_labels()
        handles += found[0]
        labels += found[1]
    if labels:
        axes.legend(
            handles,
            labels,
            ncols=columns,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            frameon=False,
        )


def draw_decomposition(result: _Decomposition, ax: Axes | None = None) -> Axes:
    """The three terms over l_pretrained with two standard errors from chips, and the accuracy.

    Without a numbered level, the terms at the target's own noise as bars.

    Raises:
        EvaluationError: l_pretrained is zero.
    """
    rows = _in_order(result.rows)
    if not rows or not rows[0].pretrained.value > 0:
        raise EvaluationError("nothing to plot: no loss without noise to compare with")
    axes = new_axes() if ax is None else ax
    axes.set_ylabel("loss / $l_{pretrained}$")
    axes.grid(alpha=0.3, axis="both" if rows[0].eta is not None else "y")
    # l_pretrained is the unit here, and no chip enters it.
    parts = {
        label: [getattr(row, name).scaled(1 / row.pretrained.value) for row in rows]
        for name, label in _TERMS.items()
    }
    if rows[0].eta is None:
        _draw_bars(axes, {label: (p[0].value, 2 * p[0].chips) for label, p in parts.items()})
        return axes
    etas = [row.eta or 0.0 for row in rows]
    for label, estimates in parts.items():
        bars, values = [2 * part.chips for part in estimates], [part.value for part in estimates]
        axes.errorbar(etas, values, bars, label=label, marker="o", markersize=3, capsize=2)
    axes.set_xlabel(_LEVEL)
    twins = []
    if all(row.accuracies for row in rows):
        twins = [axes.twinx()]
        _draw_accuracies(twins[0], rows)
    legend_above(axes, *twins, columns=4)
    return axes


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows with a numbered level in its order; where there are none, the first row."""
    numbered = sorted((r for r in rows if r.eta is not None), key=lambda r: r.eta or 0.0)
    return numbered or list(rows[:1])


def _draw_bars(axes: Axes, bars: dict[str, tuple[float, float]]) -> None:
    """Values with their errors, by name, at the target's own noise."""
    for place, (value, error) in enumerate(bars.values()):
        axes.bar(place, value, 0.6, yerr=error, capsize=4, color=f"C{place}")
    axes.set_xticks(range(len(bars)), list(bars))
    axes.set_xlabel("at the target's own noise")


def _draw_accuracies(axes: Axes, rows: Sequence[_Terms]) -> None:
    means, stds = [], []
    for row in rows:
        n, mean = len(row.accuracies), sum(row.accuracies) / len(row.accuracies)
        means.append(mean)
        stds.append((sum((a - mean) ** 2 for a in row.accuracies) / (n - 1)) ** 0.5)
    etas = [row.eta or 0.0 for row in rows]
    label = "accuracy, ± 1 std"
    axes.errorbar(etas, means, stds, linestyle="--", color="0.4", capsize=2, label=label)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)


def draw_information(result: _Information, ax: Axes | None = None) -> Axes:
    """Each estimate over its value without noise with two standard errors, and the binned floor.

    Without a numbered level, the estimates at the target's own noise as bars.
    """
    rows = _in_order(result.rows)
    axes = new_axes() if ax is None else ax
    axes.set_ylabel("I(X; Y) / I(X; Y) without noise")
    axes.axhline(0, color="0.7", linewidth=0.8)
    # An untrained network may put every output into one bin: nothing to divide by.
    known = {name: value for name, value in result.reference.items() if value > 0}
    parts = {
        _ESTIMATORS[name]: [getattr(row, name).scaled(1 / value) for row in rows]
        for name, value in known.items()
    }
    axes.grid(alpha=0.3, axis="both" if rows[0].eta is not None else "y")
    if rows[0].eta is None:
        _draw_bars(axes, {label: (p[0].value, 2 * p[0].error) for label, p in parts.items()})
        return axes
    etas = [row.eta or 0.0 for row in rows]
    for label, estimates in parts.items():
        values, bars = [part.value for part in estimates], [2 * part.error for part in estimates]
        axes.errorbar(etas, values, bars, label=label, marker="o", markersize=3, capsize=2)
    if "binned" in known:
        floor = [row.floor / known["binned"] for row in rows]
        axes.plot(etas, floor, ":", color="C0", label="binned, outputs shuffled")
    axes.set_xlabel(_LEVEL)
    legend_above(axes)
    return axes


def draw_sensitivity(result: _Sensitivity, ax: Axes | None = None) -> Axes:
    """One bar a region: what it alone costs, with the 95 % interval; the estimate as a marker."""
    axes = new_axes(height=max(1.4 + 0.3 * len(result.rows), 2.5)) if ax is None else ax
    names = [row.name for row in result.rows]
    costs = [row.cost for row in result.rows]
    bars = [(row.interval[1] - row.interval[0]) / 2 for row in result.rows]
    label = "Monte Carlo, 95 % interval"
    axes.barh(names, costs, 0.6, xerr=bars, capsize=2, color="C0", alpha=0.75, label=label)
    largest = max(row.estimate for row in result.rows)
    if largest > 0 and max(costs) > 0:
        marks = [row.estimate * max(costs) / largest for row in result.rows]
        axes.plot(marks, names, "o", color="C1", label="one backward pass, scaled to match")
    axes.invert_yaxis()
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel(f"what this region's noise alone costs in {result.metric}")
    axes.grid(alpha=0.3, axis="x")
    legend_above(axes)
    return axes


def draw_chips(values: Sequence[float], metric: str) -> Axes:
    """How one level's chips are distributed: a histogram, and their mean."""
    axes = new_axes(height=2.8)
    axes.hist(values, bins="auto", color="C0", alpha=0.75)
    axes.axvline(sum(values) / len(values), color="C3", label=f"mean of {len(values)} chips")
    axes.set_xlabel(f"{metric} of a chip, at the target's own noise")
    axes.set_ylabel("chips")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    legend_above(axes)
    return axes


def draw_use(use: _ConverterUse) -> Figure:
    """What one converter meets: a histogram on a logarithmic scale, and the converter's range."""
    figure = Figure(figsize=(3.4, 1.7), layout="constrained")
    axes = figure.subplots()
    step = (use.edges[1] - use.edges[0]) / len(use.counts)
    edges = [use.edges[0] + k * step for k in range(len(use.counts) + 1)]
    axes.stairs(use.counts, edges, fill=True, color="C0", alpha=0.75)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    for end in use.range or ():
        axes.axvline(end, color="C3", linewidth=1.2)
    axes.tick_params(labelsize=7)
    axes.locator_params(axis="x", nbins=6)
    return figure
