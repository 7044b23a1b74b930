"""``analogize targets``: list, show and check targets, and print their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from analogize.cli.fit import fit_command
from analogize.cli.options import AllowFunctions, AsCsv, AsJson
from analogize.display.tables import csv_text, width
from analogize.errors import TargetError
from analogize.targets.describe import json_schema
from analogize.targets.load import load_target, names, sources
from analogize.targets.spec import Target
from analogize.targets.words import bits, settings

# Wide enough for the comments of the built-in files.
_WIDTH = 120
# Columns from which on the list has room for descriptions.
_DESCRIBED = 100

app = typer.Typer(
    no_args_is_help=True,
    help="The analog accelerators that analogize knows, and files of your own.",
)


@app.command("list")
def list_targets(as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """List the built-in targets.

    For example: analogize targets list --json
    """
    targets = [load_target(name) for name in names()]
    if as_json or as_csv:
        rows = [_listed(target) for target in targets]
        typer.echo(json.dumps(rows, indent=2) if as_json else csv_text(rows), nl=as_json)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True, style="bold")
    table.add_column("technology")
    for column in ("weights", "DAC", "ADC"):
        table.add_column(column, justify="right")
    table.add_column("noise", overflow="fold")
    # A description of twenty words in a column of ten characters would be read by nobody.
    if (columns := width()) >= _DESCRIBED:
        table.add_column("description", ratio=1)
    for target in targets:
        each = map(bits, (target.weights.bits, target.dac.bits, target.adc.bits))
        noise = "\n".join(map(str, target.noise)) or "none"
        cells = [target.name, target.technology, *each, escape(noise), escape(target.description)]
        table.add_row(*cells[: len(table.columns)])
    Console(width=columns).print(table)
    if columns < _DESCRIBED:
        typer.echo("analogize targets show NAME says more of each")


def _listed(target: Target) -> dict[str, str | int | None]:
    return {
        "target": target.name,
        "technology": target.technology,
        "weights": target.weights.bits,
        "DAC": target.dac.bits,
        "ADC": target.adc.bits,
        "noise": "; ".join(map(str, target.noise)) or "none",
        "description": target.description,
    }


@app.command()
def show(
    target: Annotated[
        str, typer.Argument(metavar="NAME", help="A built-in name or the path of a YAML file.")
    ],
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the resolved target as YAML and nothing else.")
    ] = False,
) -> None:
    """Show a target: what it says, and the files it comes from with the source of every figure."""
    try:
        # Nothing of a target runs here.
        loaded, files = load_target(target, allow_functions=True), sources(target)
    except TargetError as error:
        raise _refused(error) from error
    if yaml:
        typer.echo(loaded.to_yaml(), nl=False)
        return
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console.width = max(console.width, _WIDTH)
    console.print(f"[bold]{escape(loaded.name)}[/bold] ({escape(loaded.technology)})")
    if loaded.description:
        console.print(escape(loaded.description))
    console.print(_table(loaded))
    if loaded.references:
        console.print("\n[bold]References[/bold]")
    for reference in loaded.references:
        console.print(f"- {escape(reference)}")
    for file in files:
        console.print(f"\n[bold]{escape(file.label)}[/bold]", soft_wrap=True)
        console.print(Syntax(file.text.rstrip(), "yaml", theme="ansi_dark", word_wrap=True))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files to check.")],
    allow_functions: AllowFunctions = False,
) -> None:
    """Check target files; list every mistake with its line and what is allowed.

    Functions of your own are found and their parameters checked with --allow-functions, which
    imports them.
    """
    errors = 0
    for file in files:
        try:
            target = load_target(file, allow_functions=True)
            unseen = _check_functions(target, allow_functions)
        except TargetError as error:
            errors += 1
            typer.echo(str(error), err=True)
        else:
            typer.echo(f"{file}: OK, target '{target.name}'{unseen}")
    if errors:
        raise typer.Exit(1)


def _check_functions(target: Target, allowed: bool) -> str:
    """Check the functions that ``target`` names; which ones were not looked at, in words."""
    from analogize.devices.custom import check_functions
    from analogize.targets.functions import foreign

    unseen = [name for _, name in foreign(target, allowed)]
    if not unseen:
        check_functions(target)
        return ""
    return f"; not looked at without --allow-functions: {', '.join(unseen)}"


@app.command()
def schema() -> None:
    """Print the JSON schema of target files, for editors to complete and check them."""
    typer.echo(json.dumps(json_schema(), indent=2))


app.command("fit")(fit_command)


def _refused(error: TargetError) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


def _table(target: Target) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for part, words in settings(target):
        table.add_row(part, escape(words))
    return table
