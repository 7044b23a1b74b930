"""A picture of a rewritten model's graph: analog regions in colour, everything else in grey.

    draw(analog, "graph.svg")

A plain SVG, laid out in layers from top to bottom: a node stands below everything it needs. A long
graph is cut into strips side by side, to be read like the columns of a newspaper. Hover over a node
for its converters, its noise, or the reason why it is digital.
"""

from __future__ import annotations

import operator
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import overload
from xml.sax.saxutils import escape, quoteattr

from torch import fx, nn

from analogize.capture.capture import GUARDS
from analogize.capture.drawn import graph_of
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import AnalogizeError, ExportError
from analogize.files.writing import writing
from analogize.model.digital_nodes import product_of
from analogize.model.module import AnalogModule
from analogize.report.region_rows import RegionRow, region_rows
from analogize.report.sheet import ARROW, HEIGHT, MARGIN, WIDTH, Sheet

_COLOURS = {  # fill, stroke
    "analog": ("#cfe8ff", "#1f6fb2"),
    "declined": ("#ffe3c2", "#c2691d"),
    "digital": ("#f1f1f1", "#8a8a8a"),
    "end": ("#ffffff", "#444444"),
}


@dataclass(frozen=True)
class _Box:
    kind: str
    title: str
    detail: str
    hover: str


class Drawing(str):
    """A drawing as SVG text, which a notebook shows as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<SVG of {len(self)} characters>"


@overload
def draw(model: nn.Module) -> Drawing: ...
@overload
def draw(model: nn.Module, path: str | os.PathLike[str]) -> Path: ...


def draw(model: nn.Module, path: str | os.PathLike[str] | None = None) -> Drawing | Path:
    """Draw the graph of a rewritten model.

    Args:
        model: what ``analogize`` returned.
        path: an ``.svg`` file; without one the drawing is returned.

    Returns:
        The path, or a ``Drawing``: SVG text that a notebook shows as a picture.

    Raises:
        AnalogizeError: not a rewritten model.
        CaptureError: its Python cannot be shown as a graph.
        ExportError: another suffix than ``.svg``, or a file that cannot be written.
    """
    if not operators(model):
        raise AnalogizeError(
            f"{type(model).__name__} was not rewritten by analogize(); there is no graph to draw"
        )
    if path is None:
        return Drawing(_svg(graph_of(model)))
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise ExportError(f"{path}: only SVG is drawn; give a name that ends in .svg")
    text = _svg(graph_of(model))
    with writing(path, "the drawing", ExportError) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _svg(model: AnalogModule) -> str:
    boxes = _boxes(model)
    sheet = Sheet.of(_places(list(boxes)))
    edges = [
        sheet.edge(source, node)
        for node in boxes
        for source in node.all_input_nodes
        if source in sheet.places
    ]
    drawn = [_node(box, sheet.corner(node)) for node, box in boxes.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet.width}" '
            f'height="{sheet.height}" viewBox="0 0 {sheet.width} {sheet.height}" '
            'font-family="sans-serif" font-size="12">',
            ARROW,
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            _legend(model),
            *edges,
            *drawn,
            "</svg>\n",
        ]
    )


def _boxes(model: AnalogModule) -> dict[fx.Node, _Box]:
    """What to show of each node; weights and biases are part of their users."""
    places = located(model)
    rows = {p.op: row for p, row in zip(places, region_rows(places), strict=True)}
    reasons = {} if model.report is None else {d.name: d for d in model.report.digital}
    boxes: dict[fx.Node, _Box] = {}
    for node in model.graph.nodes:
        if _is_stored(node, boxes) or node.target in GUARDS:
            continue
        owner = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        declined = product_of(node, reasons)
        if isinstance(owner, AnalogOp):
            boxes[node] = _analog(rows[owner])
        elif declined is not None:
            boxes[node] = _Box("declined", declined.name, declined.operator, declined.reason)
        else:
            boxes[node] = _digital(node, owner, _bias(node, boxes))
    return boxes


def _is_stored(node: fx.Node, boxes: dict[fx.Node, _Box]) -> bool:
    """Whether a node is a weight or a bias, or only changes the form of one."""
    if node.op in ("placeholder", "output", "get_attr") or not node.all_input_nodes:
        return node.op == "get_attr"
    if node.target == "type_as":
        return node.all_input_nodes[0] not in boxes
    return not any(n in boxes for n in node.all_input_nodes)


def _bias(node: fx.Node, boxes: dict[fx.Node, _Box]) -> str | None:
    """The parameter that a node adds, if it adds one."""
    stored = next((n for n in node.all_input_nodes if n not in boxes), None)
    while stored is not None and stored.op != "get_attr" and stored.all_input_nodes:
        stored = stored.all_input_nodes[0]
    return None if stored is None else str(stored.target)


def _analog(row: RegionRow) -> _Box:
    hover = f"weights {row.weights}\nDAC {row.dac}\nADC {row.adc}\nnoise {row.noise}"
    count = f"{row.tiles} tile" + ("" if row.tiles == 1 else "s")
    tiles = "" if row.tiles is None else f", {count}"
    shape = "x".join(map(str, row.region.weight_shape))
    return _Box("analog", row.region.name, f"{row.region.operator} {shape}{tiles}", hover)


def _digital(node: fx.Node, owner: nn.Module | None, bias: str | None) -> _Box:
    if node.op in ("placeholder", "output"):
        return _Box("end", str(node.target), node.op.replace("placeholder", "input"), "")
    if owner is not None:
        return _Box("digital", str(node.target), type(owner).__name__, "no product")
    name = getattr(node.target, "__name__", str(node.target))
    if node.target is operator.add and bias is not None:
        return _Box("digital", "+ bias", bias, "added after the ADC")
    return _Box("digital", name, node.name, "no product")


def _places(nodes: list[fx.Node]) -> dict[fx.Node, tuple[int, int]]:
    """Column and layer of every node; a node takes its first input's column if that is free."""
    layers: dict[fx.Node, int] = {}
    places: dict[fx.Node, tuple[int, int]] = {}
    taken: dict[int, set[int]] = defaultdict(set)
    for node in nodes:
        inputs = [n for n in node.all_input_nodes if n in layers]
        layers[node] = 1 + max((layers[n] for n in inputs), default=-1)
        used = taken[layers[node]]
        column = min((places[n][0] for n in inputs), default=0)
        while column in used:
            column += 1
        used.add(column)
        places[node] = column, layers[node]
    return places


def _node(box: _Box, corner: tuple[int, int]) -> str:
    (x, y), (fill, stroke) = corner, _COLOURS[box.kind]
    middle, hover = x + WIDTH // 2, escape(f"{box.title}\n{box.hover}")
    return (
        f"<g data-kind={quoteattr(box.kind)}><title>{hover}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{fill}" '
        f'stroke="{stroke}"/>'
        f'<text x="{middle}" y="{y + 17}" text-anchor="middle">{escape(_fit(box.title))}</text>'
        f'<text x="{middle}" y="{y + 32}" text-anchor="middle" fill="#666666" font-size="10">'
        f"{escape(_fit(box.detail, 34))}</text></g>"
    )


def _fit(text: str, limit: int = 27) -> str:
    return text if len(text) <= limit else f"…{text[1 - limit :]}"


def _legend(model: AnalogModule) -> str:
    target = "" if model.report is None else f", target {model.report.target}"
    parts = [
        f'<text x="{MARGIN}" y="22" font-size="14">'
        f"{escape(type(model).__name__)}{escape(target)}</text>"
    ]
    kinds = (("analog", "analog"), ("declined", "product left digital"), ("digital", "digital"))
    for index, (kind, label) in enumerate(kinds):
        fill, stroke = _COLOURS[kind]
        x = MARGIN + index * 140
        parts.append(
            f'<rect x="{x}" y="34" width="14" height="14" fill="{fill}" stroke="{stroke}"/>'
            f'<text x="{x + 20}" y="46">{label}</text>'
        )
    return "\n".join(parts)
