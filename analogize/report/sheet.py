"""Where the nodes and edges of a drawn graph lie: layers in strips, edges between the boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Self

from torch import fx

WIDTH, HEIGHT, MARGIN = 190, 40, 24
_GAP_X, _GAP_Y, _GUTTER, _HEADER = 24, 30, 40, 60
_COLUMN, _ROW = WIDTH + _GAP_X, HEIGHT + _GAP_Y
# Width over height to aim at, and the width beyond which a sheet grows downwards only.
_ASPECT, _WIDEST = 1.5, 2400
# Neighbouring lanes of edges, in pixels off the middle of a gap.
_LANES = (0, -6, 6, -3, 3)

ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
    'markerHeight="6" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#9a9a9a"/></marker></defs>'
)


@dataclass(frozen=True)
class Sheet:
    """A graph on paper.

    Attributes:
        places: column and layer of every node.
        rows: layers in a strip.
        lefts: where the boxes of each strip begin, and where one more strip would.
    """

    places: Mapping[fx.Node, tuple[int, int]]
    rows: int
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, places: Mapping[fx.Node, tuple[int, int]]) -> Self:
        """Cut the layers of ``places`` into as many strips as give a sheet of pleasant shape."""
        layers = 1 + max((y for _, y in places.values()), default=0)
        heights = dict.fromkeys(ceil(layers / strips) for strips in range(1, layers + 1))
        sheets = [cls(places, rows, _lefts(places, rows)) for rows in heights]
        fitting = [s for s in sheets if s.width <= _WIDEST] or sheets[:1]
        return min(fitting, key=lambda s: abs(log(s.width / s.height / _ASPECT)))

    @property
    def width(self) -> int:
        """Pixels across."""
        # Room for the legend, however narrow the graph.
        return max(self.lefts[-1] - _GUTTER + MARGIN, 460)

    @property
    def height(self) -> int:
        """Pixels down."""
        return 2 * MARGIN + _HEADER + self.rows * _ROW

    def corner(self, node: fx.Node) -> tuple[int, int]:
        """The upper left corner of a node's box."""
        column, layer = self.places[node]
        strip, row = divmod(layer, self.rows)
        return self.lefts[strip] + column * _COLUMN, MARGIN + _HEADER + row * _ROW

    def edge(self, source: fx.Node, node: fx.Node) -> str:
        """The line from ``source`` to ``node``; it crosses no box.

        To the next layer of a strip it is a curve. Otherwise it runs in the gaps: below the source,
        beside the boxes, above the target.
        """
        (x1, y1), (x2, y2) = self.corner(source), self.corner(node)
        x1, x2, y1 = x1 + WIDTH // 2, x2 + WIDTH // 2, y1 + HEIGHT
        (column, start), (_, end) = self.places[source], self.places[node]
        strip = end // self.rows
        if end - start == 1 and start // self.rows == strip:
            middle = (y1 + y2) // 2
            line = f"M{x1},{y1} C{x1},{middle} {x2},{middle} {x2},{y2}"
        else:
            lane = _LANES[(start + column) % len(_LANES)]
            below, above = y1 + _GAP_Y // 2 + lane, y2 - _GAP_Y // 2 + lane
            if start // self.rows == strip:
                beside = x1 + WIDTH // 2 + _GAP_X // 2 + lane
            else:
                beside = self.lefts[strip] - _GUTTER // 2 + lane
            line = f"M{x1},{y1} V{below} H{beside} V{above} H{x2} V{y2}"
        return (
            f'<path d="{line}" fill="none" stroke="#9a9a9a" stroke-linejoin="round" '
            'marker-end="url(#arrow)"/>'
        )


def _lefts(places: Mapping[fx.Node, tuple[int, int]], rows: int) -> tuple[int, ...]:
    """Where strips of ``rows`` layers begin, each as wide as its own nodes ask for."""
    columns: dict[int, int] = {}
    for column, layer in places.values():
        strip = layer // rows
        columns[strip] = max(columns.get(strip, 0), column + 1)
    lefts = [MARGIN + _GUTTER]
    for strip in range(max(columns, default=0) + 1):
        lefts.append(lefts[-1] + columns.get(strip, 1) * _COLUMN + _GUTTER)
    return tuple(lefts)
