"""One self-contained HTML file about a rewritten model; it loads nothing from outside."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from html import escape
from importlib import metadata
from typing import Any

from torch import nn

from analogize.analysis.converter_use import ConverterUse
from analogize.analysis.decomposition import Decomposition
from analogize.analysis.information import Information
from analogize.analysis.ranking import Sensitivity
from analogize.crossbar import noise
from analogize.crossbar.ops import operators
from analogize.devices.times import describe
from analogize.errors import CaptureError, ExportError
from analogize.evaluation.evaluation import Evaluation
from analogize.files.writing import writing
from analogize.report import report_sections as sections
from analogize.report.draw import draw
from analogize.report.glossary import glossary
from analogize.report.quality import notes
from analogize.report.report_page import folded, key_figures, page, paragraph, table
from analogize.report.report_sections import measured
from analogize.report.summary import Summary, summary

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
    own, parts, verdict = _own_level(model), [], ""
    if evaluation is not None:
        verdict = sections.verdict(evaluation, clean, own)
        shown = sections.robustness(evaluation, clean, own)
        parts.append((f"Robustness: {evaluation.metric}", shown))
    parts += [("Summary", _summary(found)), ("Graph", _graph(model))]
    if decomposition is not None:
        parts.append(("Bias and variance", sections.decomposition(decomposition)))
    if information is not None:
        parts.append(("Mutual information", sections.information(information)))
    if sensitivity is not None:
        parts.append(("Sensitivity of the regions", sections.sensitivity(sensitivity)))
    if converters:
        parts.append(("Converters: ranges and clipping", sections.converters(converters)))
    parts.append(("How this was made", _origin(command, evaluation)))
    parts.append(("Glossary", glossary()))
    data = {
        "target": found.target,
        "regions": found.to_rows(),
        "losses": [{"region": x.region, "part": x.part, "what": x.words} for x in found.losses],
        "evaluation": None if evaluation is None else evaluation.model_dump(mode="json"),
    }
    text = page(title, lead, parts, verdict=verdict, data=data)
    with writing(path, "the report", ExportError) as draft:
        draft.write_text(text, encoding="utf-8")


def _key_figures(
    found: Summary, clean: float | None, evaluation: Evaluation | None
) -> dict[str, str]:
    figures: dict[str, str] = {}
    if evaluation is not None:
        metric = evaluation.metric
        if clean is not None:
            figures[f"{metric} of the digital model"] = measured(metric, clean)
        own = (None, _own_level(found.model))
        level = next((x for x in evaluation.levels if x.eta in own and x.values), None)
        if level is not None:
            time = "" if level.drift_time is None else f", after {describe(level.drift_time)}"
            figures[f"{metric} at the target's own noise{time}"] = measured(metric, level.mean)
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
    rows = [_region(found, index) for index in range(len(found.rows))]
    regions = folded(table(rows), len(rows), "regions")
    text = paragraph(f"{found.headline[:1].upper()}{found.headline[1:]}.") + regions
    if found.digital:
        rows = [
            {"product": d.name, "operator": d.operator, "reason": d.reason}
            | {"share of the work": found.share(d.macs)}
            for d in found.digital
        ]
        text += f"<h3>Left digital</h3>{table(rows, long=['reason'])}"
    text += _held_badly(found)
    said = ["; not by ".join([f"captured by {found.capture}", *found.declined])]
    if found.work is not None:
        said.append(str(found.work))
    return text + "".join(paragraph(f"{note[:1].upper()}{note[1:]}.") for note in said)


def _held_badly(found: Summary) -> str:
    """What the target holds too coarsely, with the setting that would help; regions that wait."""
    text = "".join(paragraph(f"{each[:1].upper()}{each[1:]}.") for each in found.waiting)
    if not found.losses:
        return text
    first = notes(found.losses, found.analog_macs)[0]
    rows = [{"region": x.region, "part": x.part, "what helps": x.words} for x in found.losses]
    shown = folded(table(rows, long=["what helps"]), len(rows), "of them")
    return f"{text}<h3>Held too coarsely</h3>{paragraph(f'{first}.')}{shown}"


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
    try:
        drawing = draw(model)
    except CaptureError as error:
        return paragraph(f"There is no graph to draw: {error}.")
    # An HTML page takes the element alone, without the declarations of an XML file.
    return f'<div class="graph" tabindex="0">{drawing[drawing.index("<svg") :]}</div>'


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
