"""What became analog, what stayed digital, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from analogize.array import WeightArray
from analogize.converter import Converter
from analogize.cost import Work, estimate
from analogize.devices.tiles import count
from analogize.errors import AnalogizeError
from analogize.module import DigitalProduct, Report
from analogize.ops import AnalogOp, operators
from analogize.region import Region


@dataclass(frozen=True)
class RegionRow:
    """One analog region as the summary shows it.

    Attributes:
        region: name, operator, shapes and work.
        weights: bits and range of the weights.
        dac: bits and range of the input converter.
        adc: bits and range of the output converter.
        noise: the noise models, in words.
        tiles: crossbar tiles the weight matrix occupies, or None without an array size.
        utilization: share of those tiles' cells that hold a weight, or None.
        shares_array_with: name of the region that owns the array, or None if this one does.
    """

    region: Region
    weights: str
    dac: str
    adc: str
    noise: str
    tiles: int | None
    utilization: float | None
    shares_array_with: str | None


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
        """Draw the graph as an SVG, analog regions in colour; see ``analogize.draw``."""
        from analogize.draw import draw

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
    """Describe a model that ``analogize`` rewrote.

    Raises:
        AnalogizeError: it is not one.
    """
    report = getattr(model, "report", None)
    if not isinstance(report, Report):
        raise AnalogizeError(
            f"{type(model).__name__} was not rewritten by analogize(); there is nothing to sum up"
        )
    owners: dict[int, str] = {}
    ops = operators(model)
    rows = tuple(_row(op, owners) for op in ops)
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
        estimate(ops, tiles, report.total_macs),
    )


def _row(op: AnalogOp, owners: dict[int, str]) -> RegionRow:
    owner = owners.setdefault(id(op.array), op.region.name)
    tiles, utilization = _tiling(op)
    return RegionRow(
        region=op.region,
        weights=_weights(op.array),
        dac=_converter(op.dac),
        adc=_converter(op.adc),
        noise=" + ".join(map(str, op.array.noise)) or "none",
        tiles=tiles,
        utilization=utilization,
        shares_array_with=None if owner == op.region.name else owner,
    )


def _tiling(op: AnalogOp) -> tuple[int | None, float | None]:
    size = op.tile_size
    if size is None:
        return None, None
    groups, rows, columns = op.product.matrix(op.array.shape)
    tiles = count(op.product, op.array.shape, size.rows, size.cols) * op.array.cells_a_weight
    held = groups * rows * columns * op.array.cells_a_weight
    return tiles, held / (tiles * size.rows * size.cols)


def _weights(array: WeightArray) -> str:
    if not array.clips:
        return "as they are"
    bits = "" if array.bits is None else f"{array.bits} b "
    if array.range.ndim > 1:
        return f"{bits}{array.range.shape[1]} channels"
    low, high = array.range.tolist()
    return f"{bits}[{low:.3g}, {high:.3g}]"


def _converter(converter: Converter) -> str:
    if converter.bits is None:
        return "-"
    if converter.scale is None:
        return f"{converter.bits} b, uncalibrated"
    low, high = converter.range.tolist()
    return f"{converter.bits} b [{low:.3g}, {high:.3g}]"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
