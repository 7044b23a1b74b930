"""``analogize chip``: the conductances of a chip, out of a model into files, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analogize.cli.options import (
    AllowFunctions,
    Conditions,
    Model,
    ModelArguments,
    Target,
    Weights,
    parse_conditions,
)
from analogize.cli.prepare import build_model, read_weights, rewrite
from analogize.errors import ChipError
from analogize.targets import load_target

app = typer.Typer(no_args_is_help=True, help="Chips as data: conductances of every cell.")

File = Annotated[
    Path,
    typer.Argument(
        metavar="CHIP", help="A .npz or .h5 file, or a folder of CSV files (no suffix)."
    ),
]


@app.command("export")
def export_command(
    model: Model,
    chip: File,
    weights: Weights = None,
    target: Target = "pcm_joshi2020",
    seed: Annotated[int, typer.Option(help="The chip's number.")] = 0,
    drift_time: Annotated[
        str, typer.Option(help="When it is read after programming, for example '1 day'.")
    ] = "0 s",
    cycle: Annotated[int, typer.Option(help="Which programming of the chip it is.")] = 0,
    condition: Conditions = None,
    model_arg: ModelArguments = None,
    allow_functions: AllowFunctions = False,
) -> None:
    """Program a chip of a model, and write the conductances of its cells.

    A model that is rewritten already keeps its own target.

    For example:

      analogize chip export net.py:Net chip.npz --weights net.safetensors --drift-time "1 day"
    """
    from analogize.chips.files import save_chip
    from analogize.crossbar.chip import program
    from analogize.crossbar.reading_back import read_chip

    if chip.exists():
        raise ChipError(f"{chip} exists already; delete it, or name another file")
    conditions = parse_conditions(condition)
    described = load_target(target, allow_functions=allow_functions)
    network = build_model(model, model_arg or [], weights, allow_functions)
    analog = rewrite(network, read_weights(weights), described, None, None)
    program(analog, seed, drift_time=drift_time, cycle=cycle, conditions=conditions)
    found = read_chip(analog, name=f"chip {seed}")
    save_chip(found, chip)
    typer.echo(str(found))
    typer.echo(f"written to {chip}")


@app.command("show")
def show_command(chip: File) -> None:
    """Show what a chip's file holds: regions, tiles, conductances, dead cells."""
    from analogize.chips.files import load_chip

    typer.echo(str(load_chip(chip)))
