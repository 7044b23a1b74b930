"""What became analog, what stayed digital, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from analogize.crossbar.located import located
from analogize.errors import AnalogizeError
from analogize.model.module import DigitalProduct
from analogize.model.parts import report_of
from analogize.report.cost import Work, estimate
from analogize.report.region_rows import RegionRow, region_rows


@dataclass(frozen=True)
class Summary:
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
    """

    target: str
    rows: tuple[RegionRow, ...]
    digital: tuple[DigitalProduct, ...]
    total_macs: int | None
    model: nn.Module = field(repr=False, compare=False)
    capture: str = "fx"
    declined: tuple[str, ...] = ()
    work: Work | None = None

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

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draw the graph as an SVG, analog regions in colour; see ``analogize.report.draw``."""
        from analogize.report.draw import draw

        return draw(self.model, path)

    def __str__(self) -> str:
        stream = StringIO()
        console = Console(file=stream, width=160, color_system=None)
        console.print(self._analog_table())
        if self.digital:
            console.print(self._digital_table())
        console.print(
            f"captured by {self.capture}", *self.declined, sep="; not by ", soft_wrap=True
        )
        console.print(self.headline, soft_wrap=True)
        if self.work is not None:
            console.print(str(self.work), soft_wrap=True)
        return stream.getvalue()

    def _analog_table(self) -> Table:
        table = Table(title=f"Analog regions, target {self.target}", title_justify="left")
        for name in ("region", "operator", "weight", "output", "weights", "DAC", "ADC", "noise"):
            table.add_column(name, overflow="fold")
        table.add_column("tiles", justify="right")
        table.add_column("share", justify="right")
        for row in self.rows:
            region = row.region
            table.add_row(
                region.name + (f" x{region.calls}" if region.calls > 1 else ""),
                region.operator,
                _shape(region.weight_shape),
                _shape(region.output_shape),
                row.weights,
                row.dac,
                row.adc,
                row.noise,
                self.tiles(row),
                self.share(region.macs),
            )
        return table

    def _digital_table(self) -> Table:
        table = Table(title="Products left digital", title_justify="left")
        for name in ("product", "operator", "reason"):
            table.add_column(name, overflow="fold")
        table.add_column("share", justify="right")
        for product in self.digital:
            table.add_row(product.name, product.operator, product.reason, self.share(product.macs))
        return table

    def share(self, macs: int | None) -> str:
        """``macs`` over the work of the whole model, as the tables show it."""
        return "-" if macs is None or not self.total_macs else f"{macs / self.total_macs:.2%}"

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
        estimate(tuple(one.op for one in found), tiles, report.total_macs),
    )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
