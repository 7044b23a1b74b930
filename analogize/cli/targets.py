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
from analogize.cli.options import AllowFunctions
from analogize.errors import TargetError
from analogize.targets.describe import json_schema
from analogize.targets.dialect import dump_inline
from analogize.targets.formula import formula
from analogize.targets.load import load_target, names, sources
from analogize.targets.spec import (
    AbsMaxRange,
    Array,
    Conductance,
    Converter,
    Cost,
    Digital,
    FixedRange,
    FullRange,
    PercentileRange,
    StdRange,
    Target,
    Weights,
)

# Wide enough for the comments of the built-in files.
_WIDTH = 120

app = typer.Typer(
    no_args_is_help=True,
    help="The analog accelerators that analogize knows, and files of your own.",
)


@app.command("list")
def list_targets() -> None:
    """List the built-in targets."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("target", no_wrap=True, style="bold")
    table.add_column("technology")
    for column in ("weights", "DAC", "ADC"):
        table.add_column(column, justify="right")
    table.add_column("noise", overflow="fold")
    table.add_column("description", ratio=1)
    for target in map(load_target, names()):
        bits = (target.weights.bits, target.dac.bits, target.adc.bits)
        noise = "\n".join(map(str, target.noise)) or "none"
        table.add_row(
            target.name, target.technology, *map(_bits, bits), noise, escape(target.description)
        )
    Console().print(table)


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
    console.print(_settings(loaded))
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


def _settings(target: Target) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("weights", _weights(target.weights))
    if target.conductance is not None:
        table.add_row("conductance", _conductance(target.conductance))
        table.add_row("compensation", target.compensation)
    unit = "" if target.conductance is None else target.conductance.unit
    table.add_row("noise", escape("\n".join(formula(m, unit) for m in target.noise)) or "none")
    table.add_row("DAC", _converter(target.dac))
    table.add_row("ADC", _converter(target.adc))
    table.add_row("array", _array(target.array))
    table.add_row("energies", _cost(target.cost))
    table.add_row("digital", escape(_digital(target.digital)))
    for override in target.overrides:
        given = override.model_dump(mode="json", exclude_unset=True, exclude={"regions"})
        table.add_row("but", escape(f"{', '.join(override.regions)}: {dump_inline(given)}"))
    return table


def _array(array: Array | None) -> str:
    if array is None:
        return "unlimited"
    parts = [f"tiles of {array.rows} x {array.cols}"]
    if array.tiling:
        parts.append("each converts its own sums")
    if array.cell_bits is not None:
        parts.append(f"{array.cell_bits} bits a cell")
    if array.input_bits is not None:
        parts.append(f"inputs {array.input_bits} bits at a time")
    return "; ".join(parts)


def _bits(bits: int | None) -> str:
    return "-" if bits is None else str(bits)


def _cost(cost: Cost | None) -> str:
    figures = {} if cost is None else cost.model_dump(exclude_none=True)
    words = {"adc": "an ADC conversion", "dac": "a DAC conversion", "digital_mac": "a digital MAC"}
    return ", ".join(f"{figures[key]:g} pJ {words[key]}" for key in figures) or "not known"


def _conductance(mapping: Conductance) -> str:
    ratio = f", on/off {mapping.on_off_ratio:.3g}" if mapping.g_min else ""
    pairs = "one differential pair" if mapping.pairs == 1 else f"{mapping.pairs} pairs"
    ends = f"{mapping.g_min:g} to {mapping.g_max:g} {mapping.unit}{ratio}"
    return f"{ends}; {pairs} a weight, scaled per {mapping.scale}"


def _weights(weights: Weights) -> str:
    each = "layer" if weights.granularity == "tensor" else "output channel"
    clipping = (
        f"clipped to {_range(weights.range)} of each {each}" if weights.range else "unclipped"
    )
    return f"{clipping}; {_grid(weights)}"


def _converter(converter: Converter) -> str:
    if converter.bits is None:
        return "none"
    data = " of the calibration data" if isinstance(converter.range, PercentileRange) else ""
    return f"{_grid(converter)} over {_range(converter.range)}{data}"


def _grid(part: Weights | Converter) -> str:
    return f"{part.bits} bits, {part.grid} grid" if part.bits else "not quantized"


def _range(values: StdRange | PercentileRange | AbsMaxRange | FixedRange | FullRange) -> str:
    match values:
        case StdRange():
            return f"±{values.multiple:g} standard deviations"
        case PercentileRange():
            return f"percentiles {values.low:g} to {values.high:g}"
        case AbsMaxRange():
            return "± the largest magnitude"
        case FullRange():
            return "every sum a tile can produce"
        case FixedRange():
            return f"\\[{values.min:g}, {values.max:g}]"


def _digital(digital: Digital) -> str:
    parts = [*digital.operators, *(f"layers named {pattern}" for pattern in digital.names)]
    return ", ".join(parts) or "nothing that an array can hold"
