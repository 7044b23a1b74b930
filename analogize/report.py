"""One self-contained HTML file about a rewritten model: no script, nothing loaded from outside."""

from __future__ import annotations

import base64
import os
import platform
from collections.abc import Iterable, Sequence
from html import escape
from importlib import metadata
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from analogize.analysis_plots import draw_sensitivity, draw_uses
from analogize.converter_use import ConverterUse
from analogize.decomposition import Decomposition
from analogize.draw import draw
from analogize.errors import ExportError
from analogize.evaluation import Evaluation
from analogize.information import Information
from analogize.module import AnalogModule
from analogize.ranking import Sensitivity
from analogize.summary import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
:root { --ink: #1d2733; --soft: #5c6b7a; --line: #dfe5ec; --tint: #f5f8fb; --blue: #1f6fb2 }
body { font: 15px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  max-width: 70em; margin: 0 auto; padding: 2.5em 1.5em 4em; background: #fff }
h1 { font-size: 1.7em; line-height: 1.2; margin: 0; padding-bottom: .6em;
  border-bottom: 3px solid var(--blue); overflow-wrap: anywhere }
h2 { font-size: 1.2em; line-height: 1.2; margin: 2.4em 0 .8em; color: var(--blue) }
p { color: var(--soft) }
pre { font: 12px/1.4 "DejaVu Sans Mono", ui-monospace, monospace; background: var(--tint);
  border: 1px solid var(--line); border-radius: 6px; padding: 1em; overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line) }
td, th { padding: .3em .9em; text-align: right; white-space: nowrap }
td { border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left }
tr:hover td { background: var(--tint) }
img { max-width: 100%; display: block; margin: 0 auto }
.wrap { white-space: pre-wrap; overflow-wrap: anywhere }
.wide { overflow-x: auto } svg { overflow: visible }
.graph { max-height: 44em; overflow: auto; border: 1px solid var(--line); border-radius: 6px }
@media print { .graph { max-height: none } h2 { break-after: avoid } }
"""
# The browser itself is told to load nothing, so a report cannot call home whatever it shows.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    title: str = "",
    command: str = "",
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
        command: The command that made it, shown with the versions.
        evaluation: From ``evaluate``.
        decomposition: From ``bias_variance``.
        information: From ``mutual_information``.
        sensitivity: From ``sensitivity``.
        converters: From ``converter_use``.

    Raises:
        ExportError: the file cannot be written.
        AnalogizeError: the model was not rewritten.
    """
    title = title or f"{type(model).__name__} on {summary(model).target}"
    body = [f"<h1>{escape(title)}</h1>", _summary(model), _graph(model)]
    if evaluation is not None:
        body += [_robustness(evaluation)]
    if decomposition is not None:
        body += [_section("Bias and variance", decomposition.plot(), decomposition.to_rows())]
    if information is not None:
        body += [_section("Mutual information (nats)", information.plot(), information.to_rows())]
    if sensitivity is not None:
        body += [_sensitivity(sensitivity)]
    if converters:
        body += [_converters(converters)]
    body += [_origin(command, evaluation)]
    text = _page(title, body)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as cause:
        raise ExportError(f"cannot write the report to {os.fspath(path)}: {cause}") from cause


def _page(title: str, body: Iterable[str]) -> str:
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    content = "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'
    )


def _summary(model: nn.Module) -> str:
    return f"<h2>Summary</h2><pre>{escape(str(summary(model)))}</pre>"


def _graph(model: nn.Module) -> str:
    if not isinstance(model, AnalogModule):
        return "<h2>Graph</h2><p>The model runs as Python and has no graph to draw.</p>"
    with TemporaryDirectory() as folder:
        drawing = draw(model, Path(folder) / "graph.svg").read_text(encoding="utf-8")
    # An HTML page takes the element alone, without the declarations of an XML file.
    return f'<h2>Graph</h2><div class="graph">{drawing[drawing.index("<svg") :]}</div>'


def _robustness(evaluation: Evaluation) -> str:
    rows = evaluation.to_rows()
    return _section(f"Robustness: {evaluation.metric}", evaluation.plot(), rows)


def _sensitivity(result: Sensitivity) -> str:
    rows = [
        {"region": r.name, "cost": r.cost, "low": r.interval[0], "high": r.interval[1]}
        | {"estimated rise of the loss": r.estimate}
        for r in result.rows
    ]
    rank = result.rank_correlation
    said = "undefined" if rank is None else f"{rank:.2f}"
    note = f"<p>Rank correlation of cost and estimate (Spearman): {said}.</p>"
    return _section("Sensitivity of the regions", draw_sensitivity(result), rows) + note


def _converters(uses: Sequence[ConverterUse]) -> str:
    rows = [
        {"region": u.region, "converter": u.name, "bits": u.bits}
        | {"low": u.range[0] if u.range else None, "high": u.range[1] if u.range else None}
        | {"clipped": f"{u.clipped:.3%}"}
        for u in uses
    ]
    image = _image(draw_uses(uses), "histograms of what enters and leaves each array")
    return f"<h2>Converters: ranges and clipping</h2>{image}{_table(rows)}"


def _origin(command: str, evaluation: Evaluation | None) -> str:
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("analogize", "torch", "matplotlib"))
    lines = [f"Python {platform.python_version()}, {versions}"]
    if command:
        lines.insert(0, command)
    if evaluation is not None:
        lines.append(f"seed {evaluation.fingerprint.seed}; chips' seeds:")
        lines.append(", ".join(map(str, evaluation.seeds)))
    text = escape("\n".join(lines))
    return f'<h2>How this was made</h2><pre class="wrap">{text}</pre>'


def _section(title: str, axes: Axes, rows: Sequence[dict[str, Any]]) -> str:
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes that were drawn into belong to a figure"
    return f"<h2>{escape(title)}</h2>{_image(figure, title)}{_table(rows)}"


def _image(figure: Figure, text: str) -> str:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{data}"></p>'


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    lines = [
        "<tr>" + "".join(f"<td>{escape(_cell(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
