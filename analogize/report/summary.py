"""What became analog, what stayed digital, and why: as text, HTML and rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape as html_escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from torch import nn

from analogize.crossbar.located import located
from analogize.display.tables import Shown, html, text, width
from analogize.errors import AnalogizeError
from analogize.model.module import DigitalProduct
from analogize.model.parts import report_of
from analogize.report.cost import Work, estimate
from analogize.report.quality import Loss, losses, notes
from analogize.report.region_rows import RegionRow, region_rows

if TYPE_CHECKING:
    from analogize.report.draw import Drawing

# Columns from which on there is room for the outputs' shapes.
_ROOMY: Final = 110
_NUMBERS: Final = ("tiles", "share")


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """A rewritten model in rows; ``str()`` draws them as tables.

    Attributes:
        target: the target's name.
        rows: every analog region, in the order of the graph.
        digital: every product left digital, with its reason.
        total_macs: multiply-accumulates of the whole model on the example, or None if unknown.
        model: what was summed up, for ``draw``.
        capture: the front end that was used.
        declined: the front ends that were tried before, each with the reason it was not used.
        work: the first-order estimate of tiles, conversions and energy, or None if unknown.
        losses: what the target holds badly of weights and activations, the worst first.
    """

    target: str
    rows: tuple[RegionRow, ...]
    digital: tuple[DigitalProduct, ...]
    total_macs: int | None
    model: nn.Module = field(repr=False, compare=False)
    capture: str = "fx"
    declined: tuple[str, ...] = ()
    work: Work | None = None
    losses: tuple[Loss, ...] = ()

    @property
    def analog_macs(self) -> int | None:
        """Multiply-accumulates of the analog regions, or None if unknown."""
        known = [r.region.macs for r in self.rows if r.region.macs is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def converted_share(self) -> float | None:
        """Analog multiply-accumulates over all; None without example inputs."""
        if self.analog_macs is None or not self.total_macs:
            return None
        return self.analog_macs / self.total_macs

    @property
    def headline(self) -> str:
        """One sentence: how much was converted and what was not."""
        left = ", ".join(d.name for d in self.digital) or "nothing"
        if self.converted_share is None:
            return (
                f"{len(self.rows)} analog regions; left digital: {left} "
                "(pass example_inputs or calibration for shares of the work)"
            )
        return f"converted {self.converted_share:.2%} of multiply-accumulates; left digital: {left}"

    @overload
    def draw(self) -> Drawing: ...
    @overload
    def draw(self, path: str | os.PathLike[str]) -> Path: ...

    def draw(self, path: str | os.PathLike[str] | None = None) -> Drawing | Path:
        """Draw the graph as an SVG, analog regions in colour; see ``analogize.report.draw``."""
        from analogize.report.draw import draw

        return draw(self.model) if path is None else draw(self.model, path)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a region, then one a product left digital, for tables and files."""
        analog = [
            {"region": row.region.name, "analog": True, "operator": row.region.operator}
            | {"weight": _shape(row.region.weight_shape), "output": _shape(row.region.output_shape)}
            | {"calls": row.region.calls, "weights": row.weights, "DAC": row.dac, "ADC": row.adc}
            | {"fill": row.fill, "clipped": row.clipped}
            | {"noise": row.noise, "tiles": row.tiles, "used": row.utilization}
            | {"macs": row.region.macs, "share": self._part(row.region.macs), "reason": None}
            for row in self.rows
        ]
        digital = [
            {"region": product.name, "analog": False, "operator": product.operator}
            | {"macs": product.macs, "share": self._part(product.macs), "reason": product.reason}
            for product in self.digital
        ]
        names = analog[0] if analog else {}
        return analog + [dict.fromkeys(names) | row for row in digital]

    def __repr__(self) -> str:
        return f"<Summary for {self.target}: {self.headline}>"

    def __str__(self) -> str:
        columns = width()
        common, rows = self._analog_rows(columns)
        title = f"Analog regions, target {self.target}"
        parts: list[RenderableType] = [_table(f"{title}; all: {common}" if common else title, rows)]
        if self.digital:
            parts.append(_table("Products left digital", self._digital_rows()))
        return text(*parts, *map(escape, self._notes()), columns=columns) + "\n"

    def _repr_html_(self) -> str:
        common, rows = self._analog_rows()
        tables = html(rows, f"Analog regions, target {self.target}", common and f"All: {common}")
        if self.digital:
            tables += html(self._digital_rows(), "Products left digital")
        return tables + "".join(f"<p>{html_escape(note)}</p>" for note in self._notes())

    def _notes(self) -> list[str]:
        found = ["; not by ".join([f"captured by {self.capture}", *self.declined]), self.headline]
        found += [] if self.work is None else [str(self.work)]
        return found + self.waiting + notes(self.losses, self.analog_macs)

    @property
    def waiting(self) -> list[str]:
        """A sentence for each region that calibration brought no range."""
        return [
            f"{row.region.name} waits for a range: nothing but zeros reached it in calibration, "
            "and anything else is an error until calibrate(model, loader) brings it"
            for row in self.rows
            if row.waits
        ]

    def _analog_rows(self, columns: int = _ROOMY) -> tuple[str, list[dict[str, str]]]:
        """What all regions have in common, in words, and the rows of what they have not."""
        rows = [
            {
                "region": row.region.name
                + (f" x{row.region.calls}" if row.region.calls > 1 else ""),
                "operator": row.region.operator,
                "weight": _shape(row.region.weight_shape),
                "output": _shape(row.region.output_shape),
                "weights": row.weights,
                "rms/max": "-" if row.fill is None else f"{row.fill:.2f}",
                "clipped": "-" if row.clipped is None else f"{row.clipped:.1%}",
                "DAC": row.dac,
                "ADC": row.adc,
                "noise": row.noise,
                "tiles": self.tiles(row),
                "share": self.share(row.region.macs),
            }
            for row in self.rows
        ]
        common = {}
        for name in ("weights", "rms/max", "clipped", "DAC", "ADC", "noise", "tiles", "share"):
            values = {row[name] for row in rows}
            if len(values) == 1 and (len(rows) > 1 or values == {"-"}):
                common[name] = values.pop()
        left_out = {*common} | (set() if columns >= _ROOMY else {"output", "rms/max", "clipped"})
        words = ", ".join(f"{name} {value}" for name, value in common.items() if value != "-")
        return words, [{k: v for k, v in row.items() if k not in left_out} for row in rows]

    def _digital_rows(self) -> list[dict[str, str]]:
        return [
            {"product": d.name, "operator": d.operator, "reason": d.reason}
            | {"share": self.share(d.macs)}
            for d in self.digital
        ]

    def _part(self, macs: int | None) -> float | None:
        return None if macs is None or not self.total_macs else macs / self.total_macs

    def share(self, macs: int | None) -> str:
        """``macs`` over the work of the whole model, as the tables show it."""
        part = self._part(macs)
        return "-" if part is None else f"{part:.2%}"

    def tiles(self, row: RegionRow) -> str:
        """The row's tiles and the share of their cells in use, as the tables show it."""
        if row.shares_array_with is not None:
            return f"= {row.shares_array_with}"
        return "-" if row.tiles is None else f"{row.tiles} ({row.utilization:.0%})"


def summary(model: nn.Module) -> Summary:
    """Describe a model that ``analogize`` rewrote, or any module with such parts inside.

    Of a bigger module, names begin with the path of their part, and modules with matrices outside
    of every part are listed as digital, their work unknown.

    Raises:
        AnalogizeError: it is not one.
    """
    report = report_of(model)
    if report is None:
        raise AnalogizeError(
            f"{type(model).__name__} was not rewritten by analogize(); there is nothing to sum up"
        )
    found = located(model)
    rows = region_rows(found)
    owned = [row.tiles for row in rows if row.shares_array_with is None]
    known = [count for count in owned if count is not None]
    tiles = sum(known) if known and len(known) == len(owned) else None
    return Summary(
        report.target,
        rows,
        report.digital,
        report.total_macs,
        model,
        report.capture,
        report.declined,
        estimate(
            tuple((one.region.name, one.op) for one in found),
            tiles,
            report.total_macs,
            report.samples,
        ),
        losses(found),
    )


def _table(title: str, rows: Sequence[dict[str, str]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    return table


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
