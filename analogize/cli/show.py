"""``analogize show``: what a saved model's file holds, without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from analogize.saving.manifest import Manifest, Part


def show_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What analogize.save() wrote, or a folder of save_pretrained of Hugging Face's.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON and nothing else.")
    ] = False,
) -> None:
    """Show what a saved model's file holds: its class, targets, regions, what stayed digital."""
    # Imported here, so that other commands do not wait for safetensors.
    from analogize.display.tables import width
    from analogize.saving.container import DESCRIPTION, read_manifest

    manifest = read_manifest(file / DESCRIPTION if file.is_dir() else file)
    if as_json:
        typer.echo(json.dumps(json.loads(manifest.model_dump_json()), indent=2))
        return
    console = Console(width=width())
    console.print(headline(manifest), soft_wrap=True, highlight=False, markup=False)
    print_parts(console, manifest)


def print_parts(console: Console, manifest: Manifest) -> None:
    """Every rewritten part: its target, front end and regions, and what of it is digital."""
    for part in manifest.parts:
        console.print(_regions(part))
        for product in part.digital:
            console.print(f"digital: {product.name}: {product.reason}", markup=False)


def headline(manifest: Manifest) -> str:
    """Class, format, versions, and the chip."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    what = f"{manifest.model}, format {manifest.format}"
    return f"{what}; written by {versions}\n{_chip(manifest)}"


def _chip(manifest: Manifest) -> str:
    if not manifest.chips:
        return "no programmed chip"
    first = next(iter(manifest.chips.values()))
    which = "given as data" if first.seed is None else f"drawn by seed {first.seed}"
    when = f", {first.drift_time:g} s after programming" if first.drift_time else ""
    cycle = f", cycle {first.cycle}" if first.cycle else ""
    conditions = "".join(f", {name} {value:g}" for name, value in first.conditions.items())
    return f"a programmed chip of {len(manifest.chips)} arrays ({which}{when}{cycle}{conditions})"


def _regions(part: Part) -> Table:
    name = part.target.get("name", "?")
    where = f"part {part.path}: " if part.path else ""
    title = f"{where}target {name}, captured by {part.front_end}"
    table = Table(title=escape(title), title_justify="left")
    for head in ("region", "operator", "weight"):
        table.add_column(head, overflow="fold")
    for region in part.regions:
        shape = "x".join(map(str, region.weight_shape))
        table.add_row(escape(region.name), region.operator, shape)
    return table
