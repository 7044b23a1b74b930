"""``analogize show``: what a saved model's file holds, without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from analogize.saving.manifest import Manifest, Part


def show_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What analogize.save() wrote.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")
    ] = False,
) -> None:
    """Show what a saved model's file holds: its class, targets, regions, what stayed digital."""
    # Imported here, so that other commands do not wait for safetensors.
    from analogize.display.tables import width
    from analogize.saving.container import read_manifest

    manifest = read_manifest(file)
    if as_json:
        typer.echo(json.dumps(json.loads(manifest.model_dump_json()), indent=2))
        return
    console = Console(width=width())
    console.print(_headline(manifest), soft_wrap=True, highlight=False)
    for part in manifest.parts:
        console.print(_regions(part))
        for product in part.digital:
            console.print(f"digital: {product.name}: {product.reason}", markup=False)


def _headline(manifest: Manifest) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    held = len(manifest.chips)
    chip = f"a programmed chip of {held} arrays" if held else "no programmed chip"
    return f"{manifest.model}, format {manifest.format}, {chip}; written by {versions}"


def _regions(part: Part) -> Table:
    name = part.target.get("name", "?")
    where = f"part {part.path}: " if part.path else ""
    title = f"{where}target {name}, captured by {part.front_end}"
    table = Table(title=title, title_justify="left")
    for head in ("region", "operator", "weight"):
        table.add_column(head, overflow="fold")
    for region in part.regions:
        shape = "x".join(map(str, region.weight_shape))
        table.add_row(region.name, region.operator, shape)
    return table
