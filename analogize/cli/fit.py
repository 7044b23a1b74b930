"""``analogize targets fit``: a target from measured conductances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analogize.errors import TargetError

if TYPE_CHECKING:
    from analogize.devices.fit import Fit


def fit_command(
    measurements: Annotated[
        Path,
        typer.Argument(metavar="CSV", help="Columns 'target' and 'measured', one row a device."),
    ],
    degree: Annotated[int, typer.Option(help="Degree of the polynomial.")] = 2,
    name: Annotated[
        str | None, typer.Option(help="The target's name; the file's by default.")
    ] = None,
    unit: Annotated[str, typer.Option(help="uS (conductances) or nA (read currents).")] = "uS",
    out: Annotated[Path | None, typer.Option(help="YAML file; standard output by default.")] = None,
) -> None:
    """Fit a programming-noise polynomial to measurements and write a target that uses it.

    sigma(G) = c_0 + c_1 x + ... with x = G / Gmax is fitted to the standard deviation of the
    readings at each target conductance, each weighted by its sampling error.
    """
    from analogize.devices.fit import fit_programming_noise

    try:
        fit = fit_programming_noise(measurements, degree)
        target = fit.to_target(name or measurements.stem, _unit(unit))
        if out is not None:
            _write(out, target.to_yaml())
    except (TargetError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    if out is None:
        typer.echo(target.to_yaml(), nl=False)
    Console(stderr=True).print(_table(fit, unit))


def _unit(text: str) -> Literal["uS", "nA"]:
    match text:
        case "uS" | "nA":
            return text
    raise TargetError(f"--unit '{text}' is unknown; allowed are uS (microsiemens) and nA")


def _write(out: Path, text: str) -> None:
    if out.exists():
        raise TargetError(f"{out} exists already; delete it, or name another file with --out")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as cause:
        raise TargetError(f"cannot write the target to {out}: {cause}") from cause


def _table(fit: Fit, unit: str) -> Table:
    """Measured and fitted spreads side by side."""
    title = f"{escape(fit.source)}: chi-square per degree of freedom {fit.chi_square:.2f}"
    table = Table(title=title, title_justify="left")
    for column in (f"target ({unit})", "readings", "bias", "spread", "fitted"):
        table.add_column(column, justify="right")
    rows = zip(fit.levels, fit.counts, fit.bias, fit.spread, fit.sigma(fit.levels), strict=True)
    for level, count, *values in rows:
        table.add_row(f"{level:g}", f"{count:.0f}", *(f"{value:.4g}" for value in values))
    return table
