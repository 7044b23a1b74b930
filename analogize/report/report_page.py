"""The report's page: style, sections, tables and figures as HTML that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { --ink: #1d2733; --soft: #53616f; --line: #dfe5ec; --tint: #f5f8fb; --blue: #1f6fb2 }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { font: 15px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  max-width: 74em; margin: 0 auto; padding: 2.2em 1.4em 4em; background: #fff }
h1 { font-size: 1.7em; line-height: 1.2; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2em; line-height: 1.2; margin: 2.6em 0 .5em; color: var(--blue) }
h3 { font-size: .95em; margin: 1.6em 0 .4em }
p { color: var(--soft); margin: .5em 0; max-width: 48em; overflow-wrap: anywhere }
nav { display: flex; flex-wrap: wrap; gap: .2em 1.3em; margin: 1.2em 0 0; padding: 0 0 .9em;
  border-bottom: 3px solid var(--blue) }
nav a { color: var(--blue); text-decoration: none }
nav a:hover { text-decoration: underline }
pre { font: 12px/1.5 "DejaVu Sans Mono", ui-monospace, monospace; background: var(--tint);
  border: 1px solid var(--line); border-radius: 6px; padding: 1em; white-space: pre-wrap;
  overflow-wrap: anywhere }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11em, 1fr)); gap: .8em;
  margin: 1.4em 0 0 }
.figures div { background: var(--tint); border: 1px solid var(--line); border-radius: 6px;
  padding: .7em .9em }
.figures b { display: block; font-size: 1.35em; line-height: 1.3; overflow-wrap: anywhere }
.figures span { color: var(--soft); font-size: .85em }
.wide { overflow-x: auto; margin: .8em 0 }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  vertical-align: bottom }
td, th { padding: .32em .8em; text-align: right; white-space: nowrap }
td { border-bottom: 1px solid var(--line) }
td.text, th.text { text-align: left }
td.long { white-space: normal; min-width: 16em }
tr:hover td { background: var(--tint) }
figure { margin: 1em 0 }
img { max-width: 100%; height: auto; display: block; margin: 0 auto }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17em, 1fr)); gap: .9em;
  margin: 1em 0 }
.cards figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .6em }
figcaption { color: var(--soft); font-size: 12.5px; overflow-wrap: anywhere }
figcaption b { color: var(--ink) }
.graph { max-height: 44em; overflow: auto; border: 1px solid var(--line); border-radius: 6px }
.graph svg { overflow: visible }
@media print { .graph, .wide { max-height: none; overflow: visible } h2 { break-after: avoid }
  .cards figure { break-inside: avoid } }
@media (max-width: 40em) { body { padding: 1.2em .9em 3em } td, th { padding: .3em .5em } }
"""
# The browser itself is told to load nothing, so a report cannot call home whatever it shows.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole document.

    Args:
        title: Heading, plain text.
        lead: What stands below it, HTML.
        sections: Each section's heading in plain text, and its HTML.
    """
    links = "".join(
        f'<a href="#{_anchor(name)}">{escape(name.split(":")[0])}</a>' for name, _ in sections
    )
    body = "\n".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>\n{text}</section>'
        for name, text in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n{body}\n</body></html>\n"
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
    stream = StringIO()
    # No date and no random names inside: the same results make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "analogize"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    data = base64.b64encode(stream.getvalue().encode()).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">'


def table(rows: Sequence[Mapping[str, Any]], long: Sequence[str] = ()) -> str:
    """A table that scrolls by itself where the page is narrow; ``long`` columns wrap."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind(name, rows, long) for name in names}
    head = "".join(f'<th class="{kinds[name]}">{escape(name)}</th>' for name in names)
    lines = (
        "<tr>"
        + "".join(
            f'<td class="{kinds[name]}">{escape(_cell(row.get(name)))}</td>' for name in names
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table><tr>{head}</tr>\n{"".join(lines)}</table></div>\n'
    )


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
