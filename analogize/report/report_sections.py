"""The report's sections about results: a sentence, a figure, and a table each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analogize.analysis.analysis_plots import draw_chips, draw_sensitivity, draw_use
from analogize.analysis.converter_use import ConverterUse
from analogize.analysis.decomposition import Decomposition
from analogize.analysis.information import Information
from analogize.analysis.ranking import Sensitivity
from analogize.devices.times import describe
from analogize.evaluation.estimate import Estimate
from analogize.evaluation.evaluation import Evaluation, Level
from analogize.evaluation.plot import figure_of, mark
from analogize.report.report_page import cards, figure, folded, paragraph, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def verdict(evaluation: Evaluation, clean: float | None, own: float | None) -> str:
    """What the noise costs, in one sentence.

    Args:
        evaluation: the model over noise levels or times.
        clean: the digital model's value, where it is known.
        own: the target's own noise level, where it has one.
    """
    metric, levels = evaluation.metric, [x for x in evaluation.levels if x.mean is not None]
    level = next((x for x in levels if x.eta in (None, own)), None)
    if level is None or level.mean is None:
        return ""
    count = "on every chip" if level.deterministic else f"on average of {len(level.values)} chips"
    text = f"On {evaluation.target}, at its own noise, {metric} is {measured(metric, level.mean)} "
    text += f"{count}"
    if clean is None or metric != "accuracy":
        return f"{text}." if clean is None else f"{text}; digital {measured(metric, clean)}."
    lost = 100 * (clean - level.mean)
    text += f", {abs(lost):.2f} points {'below' if lost > 0 else 'above'} the digital model's "
    text += measured(metric, clean)
    kept = [x.eta for x in levels if x.eta is not None and clean - (x.mean or 0) <= 0.01]
    if kept and len(levels) > 1:
        text += f"; up to a noise level of {max(kept):.3g} it loses at most one point"
    return f"{text}."


def robustness(evaluation: Evaluation, clean: float | None = None, own: float | None = None) -> str:
    """The metric over noise levels or times, or how it spreads over chips."""
    levels = evaluation.levels
    noisy = [level for level in levels if not level.deterministic]
    if len(levels) > 1:
        whole = evaluation.plot()
        over_time = len(evaluation.fingerprint.drift_times) > 1
        mark(whole.axes[0], clean, None if over_time else own, evaluation.target)
        drawn = figure(whole, f"{evaluation.metric} over noise or time")
    elif noisy:
        drawn = _drawn(draw_chips(levels[0].values, evaluation.metric), "values of the chips")
    else:
        drawn = paragraph("The target draws nothing at random, so all chips are alike.")
    note = (
        f"{evaluation.samples} samples on every chip; the interval is that of the mean over chips, "
        "the deviation that from chip to chip."
    )
    if evaluation.fingerprint.deployment:
        note += f" Before it was measured, every chip had: {evaluation.fingerprint.deployment}."
    return paragraph(note) + drawn + table([_level(level, evaluation.metric) for level in levels])


def _level(level: Level, metric: str) -> dict[str, Any]:
    time = {} if level.drift_time is None else {"read after": describe(level.drift_time)}
    return (
        {"noise level": _eta(level.eta)}
        | time
        | {"chips": "all alike" if level.deterministic else len(level.values)}
        | {"mean": measured(metric, level.mean)}
        | {"standard deviation": measured(metric, level.std)}
        | {"95 % interval": _interval(metric, level.interval)}
    )


def _interval(metric: str, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "-"
    return f"[{measured(metric, ends[0])}, {measured(metric, ends[1])}]"


def decomposition(result: Decomposition) -> str:
    """Variance and bias."""
    rows = []
    for row in result.rows:
        cells: dict[str, Any] = {"noise level": _eta(row.eta)}
        for name, term in (("l_var", row.variance), ("l_bias", row.bias)):
            cells[name] = _number(term)
            if row.pretrained.value > 0:
                cells[f"{name} / l_pretrained"] = (
                    f"{round(term.value / row.pretrained.value, 3) + 0.0:.3f}"
                )
        rows.append(cells | {"l_pretrained": _number(row.pretrained)})
    note = (
        f"The squared error of the {result.output} output, split into variance over chips and "
        f"squared bias; {result.instances} chips a level, {result.samples} samples, ± one standard "
        "error from chips and samples."
    )
    if not result.rows[0].pretrained.value > 0:
        return paragraph(note) + table(rows)
    return paragraph(note) + figure(result.plot(), "loss terms") + table(rows)


def information(result: Information) -> str:
    """What the output tells about the input."""
    names = {"binned": "binned (eqs. 6, 7)", "corrected": "binned, Grassberger"}
    names |= {"neighbours": "nearest neighbours"}
    rows = [
        {"noise level": _eta(row.eta)}
        | {label: _number(getattr(row, name)) for name, label in names.items()}
        | {"binned where nothing is told": row.floor}
        for row in result.rows
    ]
    note = (
        f"Between {result.samples} inputs and the {result.output} output, in nats, by three "
        f"estimators; {result.instances} chips a level, ± one standard error."
    )
    return paragraph(note) + figure(result.plot(), "mutual information") + table(rows)


def sensitivity(result: Sensitivity) -> str:
    """What each region's noise costs alone."""
    metric = result.metric
    rows = [
        {"region": r.name, f"cost in {metric}": measured(metric, r.cost)}
        | {"95 % interval": _interval(metric, r.interval), "estimated rise of the loss": r.estimate}
        for r in result.rows
    ]
    note = (
        f"Each region with its own noise while all others are silent, {result.instances} chips, "
        f"against {measured(metric, result.baseline)} without noise."
    )
    if not any(r.cost or r.estimate for r in result.rows):
        return paragraph(f"{note} No region is noisy: none costs anything.") + table(rows)
    if result.rank_correlation is not None:
        note += f" Rank correlation of cost and estimate (Spearman): {result.rank_correlation:.2f}."
    drawn = _drawn(draw_sensitivity(result), "cost of each region")
    return paragraph(note) + drawn + folded(table(rows), len(rows), "regions")


def converters(uses: Sequence[ConverterUse]) -> str:
    """What every DAC and ADC meets, and what it clips."""
    note = (
        "What enters and leaves each array in the digital model; with tiles that convert their own "
        "sums, the partial sums. Red: the converter's range. Counts are on a logarithmic scale."
    )
    drawn = cards((draw_use(u), f"{u.region}: {u.name}", _use(u)) for u in uses)
    return paragraph(note) + folded(drawn, len(uses), "converters")


def _use(use: ConverterUse) -> str:
    if use.bits is None:
        return f"no conversion; values in [{use.edges[0]:.3g}, {use.edges[1]:.3g}]"
    if use.range is None:
        return f"{use.bits} bits, covers every sum"
    low, high = use.range
    return f"{use.bits} bits on [{low:.3g}, {high:.3g}], {use.clipped:.2%} clipped"


def _drawn(axes: Axes, text: str) -> str:
    return figure(figure_of(axes), text)


def _eta(eta: float | None) -> str:
    return "target's own" if eta is None else f"{eta:.4g}"


def _number(estimate: Estimate) -> str:
    """Value and error with two digits of the error."""
    if not estimate.error > 1e-12:  # nothing but rounding
        return f"{round(estimate.value, 12) + 0.0:.4g}"
    digits = max(0, 1 - math.floor(math.log10(estimate.error)))
    return f"{round(estimate.value, digits) + 0.0:.{digits}f} ± {estimate.error:.{digits}f}"


def measured(metric: str, value: float | None) -> str:
    """A value of the metric: accuracies in percent."""
    if value is None:
        return "-"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"
