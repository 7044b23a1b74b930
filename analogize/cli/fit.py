"""``analogize targets fit``: a target from measured conductances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analogize.errors import TargetError
from analogize.targets.formula import formula

if TYPE_CHECKING:
    from analogize.devices.fit import Fit


def fit_command(
    measurements: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="Columns 'target' and 'measured', one row a reading; 'time' (seconds) and "
            "'device' where devices were read again.",
        ),
    ],
    degree: Annotated[int, typer.Option(help="Degree of the polynomial.")] = 2,
    name: Annotated[
        str | None, typer.Option(help="The target's name; the file's by default.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="uS (conductances) or nA (read currents), where the header has no unit, as in "
            "'target (nS)'."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Figure of measured and fitted spreads, with residuals.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="YAML file; standard output by default.")] = None,
) -> None:
    """Fit device noise to measurements and write a target that uses it.

    sigma(G) = c_0 + c_1 x + ... with x = G / Gmax is fitted to the standard deviation of the
    readings at each target conductance, each weighted by its sampling error, and to their bias
    where it is more than chance. Readings at several times give the model 'relaxation', or, with
    devices named, drift exponents, their spread, and read noise.

    For example:

      analogize targets fit devices.csv --out my_device.yaml --plot fit.png
    """
    from analogize.devices.fit import fit_readings
    from analogize.devices.fit_over_time import fit_over_time
    from analogize.devices.measurements import read_measurements

    try:
        readings = read_measurements(measurements, None if unit is None else _unit(unit))
        chosen = name or measurements.stem
        if readings.time is None:
            fits = [fit_readings(readings, degree)]
            target = fits[0].to_target(chosen)
        else:
            over_time = fit_over_time(readings, degree)
            fits, target = list(over_time.fits), over_time.to_target(chosen)
        if plot is not None:
            fits[0].plot(plot)
        if out is not None:
            _write(out, target.to_yaml())
    except (TargetError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    if out is None:
        typer.echo(target.to_yaml(), nl=False)
    for fit in fits:
        Console(stderr=True).print(_table(fit, fit.unit))
    for model in target.noise:
        Console(stderr=True).print(formula(model, readings.unit), markup=False)


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
