"""The table of what every region takes for one inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.markup import escape
from rich.table import Table


class _Layer(Protocol):
    """What is told of a region."""

    @property
    def region(self) -> str: ...
    @property
    def tiles(self) -> int | None: ...
    @property
    def mvms(self) -> int: ...
    @property
    def adc(self) -> int: ...
    @property
    def dac(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def used(self) -> float | None: ...
    @property
    def energy(self) -> float | None: ...
    @property
    def latency(self) -> float | None: ...


def cost_table(layers: Sequence[_Layer]) -> Table:
    """One row a region; what no figure is known of is a dash."""
    table = Table(
        title="Cost of one inference", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("region", overflow="fold")
    for name in ("tiles", "used", "MVMs", "ADC", "DAC", "MACs", "nJ", "us"):
        table.add_column(name, justify="right")
    for layer in layers:
        table.add_row(
            escape(layer.region),
            "-" if layer.tiles is None else f"{layer.tiles:,}",
            "-" if layer.used is None else f"{layer.used:.0%}",
            *(f"{count:,}" for count in (layer.mvms, layer.adc, layer.dac, layer.macs)),
            "-" if layer.energy is None else f"{layer.energy * 1e-3:.4g}",
            "-" if layer.latency is None else f"{layer.latency * 1e-3:.4g}",
        )
    return table
