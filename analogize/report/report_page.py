"""The report's page: style, sections, tables and figures as HTML that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from analogize.evaluation.plot import svg
from analogize.report.glossary import HEADS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More rows than this fold away, so that a ResNet-50's page can still be read.
_MANY = 16

_TEMPLATES = Environment(loader=PackageLoader("analogize.report"), autoescape=True)


def page(
    title: str,
    lead: str,
    sections: Sequence[tuple[str, str]],
    *,
    verdict: str = "",
    data: Mapping[str, Any] | None = None,
) -> str:
    """The whole document.

    Args:
        title: Heading, plain text.
        lead: What stands below it, HTML.
        sections: Each section's heading in plain text, and its HTML.
        verdict: The answer in one sentence, plain text.
        data: What the page shows, for programs; embedded as JSON.
    """
    parts = [
        {"anchor": _anchor(name), "name": name, "short": name.split(":")[0], "html": text}
        for name, text in sections
    ]
    script = _file("report.js")
    return _TEMPLATES.get_template("page.html").render(
        title=title,
        verdict=verdict,
        lead=lead,
        sections=parts,
        style=_file("report.css"),
        script=script,
        policy=_policy(script),
        # An end tag within a string would end the element.
        data=json.dumps(data or {}).replace("<", "\\u003c"),
    )


def _file(name: str) -> str:
    return (resources.files("analogize.report") / "templates" / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What the browser itself is told: load nothing, and run this very script only.

    So a report cannot call home, whatever it shows.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )


def _anchor(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>\n"


def key_figures(figures: Mapping[str, str]) -> str:
    """Numbers worth a first look, each with what it is."""
    cells = (
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"
        for name, value in figures.items()
    )
    return f'<div class="figures">{"".join(cells)}</div>\n'


def figure(drawn: Figure, text: str) -> str:
    """A Matplotlib figure as an image that is sharp at any size; ``text`` says what it shows."""
    return f"<figure>{_image(drawn, text)}</figure>\n"


def cards(figures: Iterable[tuple[Figure, str, str]]) -> str:
    """Small figures side by side, as many as fit: each with a bold name and a caption."""
    cells = (
        f"<figure>{_image(drawn, f'{name}: {text}')}"
        f"<figcaption><b>{escape(name)}</b><br>{escape(text)}</figcaption></figure>"
        for drawn, name, text in figures
    )
    return f'<div class="cards">{"".join(cells)}</div>\n'


def _image(drawn: Figure, text: str) -> str:
    data = base64.b64encode(svg(drawn).encode()).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">'


def folded(html: str, count: int, what: str) -> str:
    """``html``, behind a line to unfold it where it shows many things."""
    if count <= _MANY:
        return html
    return f"<details><summary>All {count} {escape(what)}</summary>{html}</details>\n"


def table(rows: Sequence[Mapping[str, Any]], long: Sequence[str] = ()) -> str:
    """A table that scrolls by itself where the page is narrow; ``long`` columns wrap."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind(name, rows, long) for name in names}
    cells = [[{"kind": kinds[n], "text": _cell(row.get(n))} for n in names] for row in rows]
    heads = [{"kind": kinds[name], "name": name, "term": HEADS.get(name)} for name in names]
    return _TEMPLATES.get_template("table.html").render(heads=heads, rows=cells)


def _kind(name: str, rows: Sequence[Mapping[str, Any]], long: Sequence[str]) -> str:
    if name in long:
        return "text long"
    values = [row.get(name) for row in rows]
    words = all(isinstance(v, str) and v[:1].isalpha() for v in values)
    return "text" if words else "number"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
