"""One self-contained HTML file about a rewritten model: no script, nothing loaded from outside."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from analogize import noise
from analogize.analysis_plots import draw_chips, draw_sensitivity, draw_use
from analogize.converter_use import ConverterUse
from analogize.decomposition import Decomposition
from analogize.devices.times import describe
from analogize.draw import draw
from analogize.errors import ExportError
from analogize.estimate import Estimate
from analogize.evaluation import Evaluation, Level
from analogize.information import Information
from analogize.module import AnalogModule
from analogize.ops import operators
from analogize.ranking import Sensitivity
from analogize.report_page import cards, figure, key_figures, page, paragraph, table
from analogize.summary import Summary, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PACKAGES = ("analogize", "torch", "numpy", "matplotlib")


def write_report(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    title: str = "",
    description: str = "",
    command: str = "",
    clean: float | None = None,
    evaluation: Evaluation | None = None,
    decomposition: Decomposition | None = None,
    information: Information | None = None,
    sensitivity: Sensitivity | None = None,
    converters: Sequence[ConverterUse] = (),
) -> None:
    """Write what is known about ``model`` into one HTML file; what is None is left out.

    Args:
        path: Where to.
        model: A rewritten model.
        title: Heading; the model's class by default.
        description: What stands below it, for example of the target.
        command: The command that made it, shown with the versions.
        clean: The digital model's value of ``evaluation``'s metric.
        evaluation: From ``evaluate``.
        decomposition: From ``bias_variance``.
        information: From ``mutual_information``.
        sensitivity: From ``sensitivity``.
        converters: From ``converter_use``.

    Raises:
        ExportError: the file cannot be written.
        AnalogizeError: the model was not rewritten.
    """
    found = summary(model)
    title = title or f"{type(model).__name__} on {found.target}"
    lead = paragraph(description) if description else ""
    lead += key_figures(_key_figures(found, clean, evaluation))
    sections = [("Summary", _summary(found)), ("Graph", _graph(model))]
    if evaluation is not None:
        sections.append((f"Robustness: {evaluation.metric}", _robustness(evaluation)))
    if decomposition is not None:
        sections.append(("Bias and variance", _decomposition(decomposition)))
    if information is not None:
        sections.append(("Mutual information", _information(information)))
    if sensitivity is not None:
        sections.append(("Sensitivity of the regions", _sensitivity(sensitivity)))
    if converters:
        sections.append(("Converters: ranges and clipping", _converters(converters)))
    sections.append(("How this was made", _origin(command, evaluation)))
    text = page(title, lead, sections)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as cause:
        raise ExportError(f"cannot write the report to {os.fspath(path)}: {cause}") from cause


def _key_figures(
    found: Summary, clean: float | None, evaluation: Evaluation | None
) -> dict[str, str]:
    figures: dict[str, str] = {}
    if evaluation is not None:
        if clean is not None:
            figures[f"{evaluation.metric} of the digital model"] = f"{clean:.4g}"
        own = (None, _own_level(found.model))
        level = next((x for x in evaluation.levels if x.eta in own and x.values), None)
        if level is not None:
            time = "" if level.drift_time is None else f", after {describe(level.drift_time)}"
            figures[f"{evaluation.metric} at the target's own noise{time}"] = f"{level.mean:.4g}"
    if found.converted_share is not None:
        figures["of the multiply-accumulates are analog"] = f"{found.converted_share:.2%}"
    figures["analog regions"] = str(len(found.rows))
    if found.digital:
        figures["products left digital"] = str(len(found.digital))
    if found.work is not None and found.work.tiles is not None:
        figures["crossbar tiles"] = f"{found.work.tiles:,}"
    return figures


def _own_level(model: nn.Module) -> float | None:
    """The noise level of the target's only noise model, or None."""
    for op in operators(model):
        models = op.array.noise
        return noise.level(models[0]) if len(models) == 1 and noise.has_level(models[0]) else None
    return None


def _summary(found: Summary) -> str:
    regions = table([_region(found, index) for index in range(len(found.rows))])
    text = paragraph(f"{found.headline[:1].upper()}{found.headline[1:]}.") + regions
    if found.digital:
        rows = [
            {"product": d.name, "operator": d.operator, "reason": d.reason}
            | {"share of the work": found.share(d.macs)}
            for d in found.digital
        ]
        text += f"<h3>Left digital</h3>{table(rows, long=['reason'])}"
    notes = ["; not by ".join([f"captured by {found.capture}", *found.declined])]
    if found.work is not None:
        notes.append(str(found.work))
    return text + "".join(paragraph(f"{note[:1].upper()}{note[1:]}.") for note in notes)


def _region(found: Summary, index: int) -> dict[str, Any]:
    row = found.rows[index]
    region = row.region
    return {
        "region": region.name + (f" x{region.calls}" if region.calls > 1 else ""),
        "operator": region.operator,
        "weight": "x".join(map(str, region.weight_shape)),
        "weights": row.weights,
        "DAC": row.dac,
        "ADC": row.adc,
        "noise": row.noise,
        "tiles (used)": found.tiles(row),
        "share of the work": found.share(region.macs),
    }


def _graph(model: nn.Module) -> str:
    if not isinstance(model, AnalogModule):
        return paragraph("The model runs as Python and has no graph to draw.")
    with TemporaryDirectory() as folder:
        drawing = draw(model, Path(folder) / "graph.svg").read_text(encoding="utf-8")
    # An HTML page takes the element alone, without the declarations of an XML file.
    return f'<div class="graph" tabindex="0">{drawing[drawing.index("<svg") :]}</div>'


def _robustness(evaluation: Evaluation) -> str:
    levels = evaluation.levels
    noisy = [level for level in levels if not level.deterministic]
    if len(levels) > 1:
        drawn = _drawn(evaluation.plot(), f"{evaluation.metric} over noise or time")
    elif noisy:
        drawn = _drawn(draw_chips(levels[0].values, evaluation.metric), "values of the chips")
    else:
        drawn = paragraph("The target draws nothing at random, so all chips are alike.")
    note = (
        f"{evaluation.samples} samples on every chip; the interval is that of the mean over chips, "
        "the deviation that from chip to chip."
    )
    return paragraph(note) + drawn + table([_level(level) for level in levels])


def _level(level: Level) -> dict[str, Any]:
    low, high = level.interval or (None, None)
    time = {} if level.drift_time is None else {"read after": describe(level.drift_time)}
    return (
        {"noise level": _eta(level.eta)}
        | time
        | {"chips": "all alike" if level.deterministic else len(level.values), "mean": level.mean}
        | {"standard deviation": level.std, "95 % interval": _interval(low, high)}
    )


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"


def _decomposition(result: Decomposition) -> str:
    rows = []
    for row in result.rows:
        cells: dict[str, Any] = {"noise level": _eta(row.eta)}
        for name, term in (("l_var", row.variance), ("l_bias", row.bias)):
            cells[name] = _number(term)
            if row.pretrained.value > 0:
                cells[f"{name} / l_pretrained"] = f"{term.value / row.pretrained.value:.3f}"
        rows.append(cells | {"l_pretrained": _number(row.pretrained)})
    note = (
        f"The squared error of the {result.output} output, split into variance over chips and "
        f"squared bias; {result.instances} chips a level, {result.samples} samples, ± one standard "
        "error from chips and samples."
    )
    if not result.rows[0].pretrained.value > 0:
        return paragraph(note) + table(rows)
    return paragraph(note) + _drawn(result.plot(), "loss terms") + table(rows)


def _information(result: Information) -> str:
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
    return paragraph(note) + _drawn(result.plot(), "mutual information") + table(rows)


def _sensitivity(result: Sensitivity) -> str:
    rows = [
        {"region": r.name, f"cost in {result.metric}": r.cost}
        | {"95 % interval": _interval(*r.interval), "estimated rise of the loss": r.estimate}
        for r in result.rows
    ]
    rank = result.rank_correlation
    said = "undefined" if rank is None else f"{rank:.2f}"
    note = (
        f"Each region with its own noise while all others are silent, {result.instances} chips, "
        f"against {result.baseline:.4g} without noise. Rank correlation of cost and estimate "
        f"(Spearman): {said}."
    )
    return paragraph(note) + _drawn(draw_sensitivity(result), "cost of each region") + table(rows)


def _converters(uses: Sequence[ConverterUse]) -> str:
    note = (
        "What enters and leaves each array in the digital model; with tiles that convert their own "
        "sums, the partial sums. Red: the converter's range. Counts are on a logarithmic scale."
    )
    drawn = cards((draw_use(u), f"{u.region}: {u.name}", _use(u)) for u in uses)
    return paragraph(note) + drawn


def _use(use: ConverterUse) -> str:
    if use.bits is None:
        return f"no conversion; values in [{use.edges[0]:.3g}, {use.edges[1]:.3g}]"
    if use.range is None:
        return f"{use.bits} bits, covers every sum"
    low, high = use.range
    return f"{use.bits} bits on [{low:.3g}, {high:.3g}], {use.clipped:.2%} clipped"


def _origin(command: str, evaluation: Evaluation | None) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    lines = [f"Python {platform.python_version()}, {versions}"]
    if command:
        lines.insert(0, command)
    if evaluation is not None:
        lines.append(f"seed {evaluation.fingerprint.seed}; chips' seeds:")
        lines.append(", ".join(map(str, evaluation.seeds)))
    text = "\n".join(lines)
    return f"<pre>{escape(text)}</pre>"


def _drawn(axes: Axes, text: str) -> str:
    whole = axes.get_figure(root=True)
    assert whole is not None, "axes that were drawn into belong to a figure"
    return figure(whole, text)


def _eta(eta: float | None) -> str:
    return "target's own" if eta is None else f"{eta:.4g}"


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ± {estimate.error:.1g}"
