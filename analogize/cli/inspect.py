"""``analogize inspect``: the analog regions of an ONNX file as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from analogize.onnx.manifest import ConverterEntry, Manifest, TileEntry
    from analogize.onnx.reading.read import OnnxRegion

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")
]
AsSchema = Annotated[bool, typer.Option("--schema", help="Print the manifest's JSON schema.")]


def inspect_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.onnx", help="An annotated ONNX file.")
    ] = None,
    as_json: AsJson = False,
    schema: AsSchema = False,
) -> None:
    """Show the analog regions of an ONNX file, what stayed digital, and what the file promises."""
    # Imported here, so that other commands do not wait for onnx.
    from analogize.errors import ExportError
    from analogize.onnx.manifest import json_schema
    from analogize.onnx.reading.read import load_model, read_manifest, read_regions

    if schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if file is None:
        raise ExportError("give the ONNX file to inspect, or --schema")
    manifest = read_manifest(load_model(file), str(file))
    if as_json and manifest is not None:
        typer.echo(json.dumps(json.loads(manifest.to_json()), indent=2))
        return
    regions = read_regions(file)
    console = Console()
    console.print(_regions(regions))
    if manifest is not None:
        _print_rest(console, manifest)


def _print_rest(console: Console, manifest: Manifest) -> None:
    if manifest.digital:
        table = Table(title="Products left digital", title_justify="left")
        for name in ("product", "operator", "reason"):
            table.add_column(name, overflow="fold")
        for product in manifest.digital:
            table.add_row(*map(escape, (product.name, product.operator, product.reason)))
        console.print(table)
    promised = "equal torch's bit for bit" if manifest.numerics.exact else "near torch's"
    console.print(
        f"target {manifest.target}, {manifest.form} form, {manifest.arithmetic} arithmetic, noise "
        f"{manifest.noise}; onnxruntime's outputs: {promised}",
        soft_wrap=True,
    )
    for reason in manifest.numerics.reasons:
        console.print(f"- {escape(reason)}", soft_wrap=True)


def _regions(regions: tuple[OnnxRegion, ...]) -> Table:
    table = Table(title="Analog regions", title_justify="left")
    columns = ("region", "operator", "weight", "stored", "DAC", "ADC", "noise", "tiles", "found by")
    for name in columns:
        table.add_column(name, overflow="fold")
    for region in regions:
        table.add_row(*map(escape, _row(region)))
    return table


def _row(region: OnnxRegion) -> tuple[str, ...]:
    entry = region.entry
    found: str = region.found_by or "nothing left of it"
    if region.missing:
        found += f"; missing: {', '.join(region.missing)}"
    if entry is None:
        return (region.id, *["?"] * 7, found)
    weight = entry.weight
    bits = "no bits" if weight.bits is None else f"{weight.bits} b"
    return (
        region.id + (f" x{len(entry.calls)}" if len(entry.calls) > 1 else ""),
        entry.kind,
        "x".join(map(str, weight.shape)),
        f"{bits}, {weight.storage}",
        _converter(entry.dac),
        _converter(entry.adc),
        " + ".join(m.model for m in entry.noise.models) or "none",
        _tiles(entry.tiles),
        found,
    )


def _tiles(tiles: TileEntry) -> str:
    if tiles.tile is None:
        return "-"
    text = f"{tiles.count} of {tiles.tile[0]}x{tiles.tile[1]}"
    return f"{text}, {len(tiles.sums)} sums" if tiles.sums else text


def _converter(converter: ConverterEntry | None) -> str:
    if converter is None:
        return "-"
    if converter.range is None:
        return f"{converter.bits} b, full range"
    if converter.extent == "vector":
        return f"{converter.bits} b, one range a vector"
    low, high = converter.range
    if isinstance(low, tuple) or isinstance(high, tuple):
        return f"{converter.bits} b, {len(np.ravel(low))} channels"
    return f"{converter.bits} b [{low:.3g}, {high:.3g}]"
