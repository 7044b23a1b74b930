"""Plots of results, with Matplotlib's object interface: no display, no shared state."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from io import StringIO
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analogize.errors import EvaluationError
from analogize.files.writing import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Picture(Figure):
    """A figure that shows itself in a notebook, whatever backend is chosen there."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"image/svg+xml": svg(self), "text/plain": repr(self)}


def svg(figure: Figure) -> str:
    """The figure as SVG whose text stays text, the same for the same results."""
    stream = StringIO()
    # No date and no random names inside.
    with matplotlib.rc_context({"svg.hashsalt": "analogize", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def new_axes(width: float = 6.0, height: float = 4.0) -> Axes:
    """The axes of a new figure, in inches."""
    return Picture(figsize=(width, height), layout="constrained").subplots()


def figure_of(axes: Axes) -> Picture:
    """The whole figure that ``axes`` belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes that were drawn into belong to a figure"
    return cast("Picture", figure)


class _Level(Protocol):
    """What is drawn of one noise level: see ``evaluation.Level``."""

    @property
    def eta(self) -> float | None: ...
    @property
    def drift_time(self) -> float | None: ...
    @property
    def mean(self) -> float | None: ...
    @property
    def std(self) -> float | None: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...


class _Curve(Protocol):
    """What is drawn of one evaluation: a result knows its plot, a plot knows no result."""

    @property
    def levels(self) -> Sequence[_Level]: ...
    @property
    def noise(self) -> Sequence[str]: ...
    @property
    def metric(self) -> str: ...


# What a level means for each kind of weight noise (the paper's equation 8 and section 4.1).
_AXIS = {
    "gaussian": r"noise level $\eta = \sigma_N\,/\,(W_{\max} - W_{\min})$",
    "fixed_snr": r"noise level $\sigma_N\,/\,\sigma_W$",
}
_ANY_AXIS = r"noise level $\eta$"
# On device targets a level is a factor on the noise that the target describes.
_DEVICE_AXIS = "noise over the target's own"
_DEVICES = (
    "programming",
    "relaxation",
    "drift",
    "log_drift",
    "one_over_f",
    "variation",
    "read",
)


def draw_robustness(evaluation: _Curve, ax: Axes | None, label: str) -> Axes:
    """Draw one evaluation: mean over chips, band of the 95 % interval, error bars of one std.

    Args:
        evaluation: What to draw.
        ax: Where to draw; a new figure by default.
        label: Name in the legend.

    Returns:
        The axes drawn into.

    Raises:
        EvaluationError: no level has a value yet.
    """
    measured = [(level, level.mean) for level in evaluation.levels if level.mean is not None]
    if not measured:
        raise EvaluationError("there is nothing to plot: no chip was measured yet")
    axes = new_axes() if ax is None else ax
    colour = f"C{len(axes.get_legend_handles_labels()[0])}"
    curve = [(level.eta, mean, level) for level, mean in measured if level.eta is not None]
    curve.sort(key=itemgetter(0))
    if curve:
        _draw_curve(axes, curve, label, colour, _bounds(evaluation.metric))
    for level, mean in measured:
        if level.eta is None:
            name = f"{label} (target's own noise)"
            _draw_line(axes, mean, level, name, colour, _bounds(evaluation.metric))
    kinds = {_AXIS.get(kind, _ANY_AXIS) for kind in evaluation.noise}
    if kinds == {_ANY_AXIS} and any(kind in _DEVICES for kind in evaluation.noise):
        kinds = {_DEVICE_AXIS}
    axes.set_xlabel(kinds.pop() if len(kinds) == 1 else _ANY_AXIS)
    _label_values(axes, evaluation.metric)
    axes.grid(alpha=0.3)
    _explain(axes)
    return axes


def mark(axes: Axes, digital: float | None, own: float | None, target: str) -> None:
    """Draw the digital model's value as a line, and the target's own noise level as another."""
    # Named in the legend: beside them, a curve, a title or the legend itself may lie.
    if digital is not None:
        axes.axhline(digital, color="black", linewidth=1, linestyle="--", label="digital")
    if own is not None:
        name = f"noise of {target}"
        axes.axvline(own, color="grey", linewidth=1, linestyle=":", label=name)
    _explain(axes)


def _explain(axes: Axes) -> None:
    axes.legend(title="mean, 95 % interval, ± 1 std", title_fontsize="small")


def _label_values(axes: Axes, metric: str) -> None:
    axes.set_ylabel(metric)
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def draw_over_time(evaluation: _Curve, ax: Axes | None, label: str) -> Axes:
    """Draw one evaluation over the time since programming, one curve a noise level.

    Args:
        evaluation: What to draw.
        ax: Where to draw; a new figure by default.
        label: Name in the legend.

    Returns:
        The axes drawn into; time is logarithmic from one second on, linear below.

    Raises:
        EvaluationError: no level has a value yet.
    """
    axes = new_axes() if ax is None else ax
    etas = list(dict.fromkeys(level.eta for level in evaluation.levels))
    for eta in etas:
        curve = [
            (level.drift_time, level.mean, level)
            for level in evaluation.levels
            if level.eta == eta and level.mean is not None and level.drift_time is not None
        ]
        if not curve:
            raise EvaluationError("there is nothing to plot: no chip was measured yet")
        colour = f"C{len(axes.get_legend_handles_labels()[0])}"
        name = (
            label if len(etas) == 1 else f"{label}, eta {'of the target' if eta is None else eta}"
        )
        sorted_curve = sorted(curve, key=itemgetter(0))
        _draw_curve(axes, sorted_curve, name, colour, _bounds(evaluation.metric))
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlabel("time since programming (s)")
    _label_values(axes, evaluation.metric)
    axes.grid(alpha=0.3)
    _explain(axes)
    return axes


def write_figure(axes: Axes, path: str | os.PathLike[str]) -> None:
    """Write the figure that ``axes`` belong to; the suffix chooses the format.

    Raises:
        EvaluationError: the file cannot be written, or its suffix is no format Matplotlib knows.
    """
    with writing(path, "the plot", EvaluationError, (ValueError,)) as draft:
        figure_of(axes).savefig(draft, dpi=150)


def check_figure_path(path: str | os.PathLike[str]) -> None:
    """Raise before a long run what ``write_figure`` would raise after it.

    Raises:
        EvaluationError: the folder does not exist, or the suffix is no format Matplotlib knows.
    """
    file = Path(path)
    formats = Figure().canvas.get_supported_filetypes()
    if not file.parent.is_dir():
        raise EvaluationError(f"cannot write the plot to {file}: there is no folder {file.parent}")
    if file.suffix.removeprefix(".").lower() not in formats:
        raise EvaluationError(
            f"cannot write the plot to {file}: its suffix must be one of {', '.join(formats)}"
        )


def _bounds(metric: str) -> tuple[float, float]:
    """What no value can pass, so that no band is drawn beyond."""
    return (0.0, 1.0) if metric == "accuracy" else (-math.inf, math.inf)


def _draw_curve(
    axes: Axes,
    curve: list[tuple[float, float, _Level]],
    label: str,
    colour: str,
    bounds: tuple[float, float],
) -> None:
    etas, means, levels = zip(*curve, strict=True)
    least, most = bounds
    # A single chip has no spread: no bar, and a band of no width.
    spreads = [(mean, level.std or 0.0) for mean, level in zip(means, levels, strict=True)]
    bars = (
        [min(std, mean - least) for mean, std in spreads],
        [min(std, most - mean) for mean, std in spreads],
    )
    axes.errorbar(
        etas,
        means,
        bars,
        elinewidth=1,
        capsize=3,
        marker="o",
        markersize=3,
        color=colour,
        label=label,
    )
    ends = [level.interval or (mean, mean) for _, mean, level in curve]
    low, high = np.clip(ends, least, most).T
    axes.fill_between(etas, low, high, color=colour, alpha=0.25, linewidth=0)


def _draw_line(
    axes: Axes,
    mean: float,
    level: _Level,
    label: str,
    colour: str,
    bounds: tuple[float, float],
) -> None:
    axes.axhline(mean, color=colour, linestyle="--", label=label)
    if level.interval is not None:
        low, high = np.clip(level.interval, *bounds)
        axes.axhspan(low, high, color=colour, alpha=0.15, linewidth=0)
