"""``analogize targets fit``: a target from measured conductances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analogize.cli.options import AsCsv, AsJson
from analogize.display.tables import csv_text, shown
from analogize.errors import TargetError
from analogize.files.writing import writing
from analogize.targets.formula import formula

if TYPE_CHECKING:
    from analogize.devices.fit import Fit
    from analogize.targets import Target


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
    as_json: AsJson = False,
    as_csv: AsCsv = False,
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
    if as_json or as_csv:
        typer.echo(_as_json(fits, target) if as_json else _as_csv(fits), nl=as_json)
        return
    if out is None:
        typer.echo(target.to_yaml(), nl=False)
    for fit in fits:
        Console(stderr=True).print(_table(fit))
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
    with writing(out, "the target", TargetError) as draft:
        draft.write_text(text, encoding="utf-8")


def _rows(fit: Fit) -> list[dict[str, Any]]:
    """Measured and fitted spreads, a dictionary a conductance."""
    names = f"target ({fit.unit})", "readings", "bias", "spread", "fitted"
    values = fit.levels, fit.counts, fit.bias, fit.spread, fit.sigma(fit.levels)
    rows = [dict(zip(names, map(float, row), strict=True)) for row in zip(*values, strict=True)]
    return [row | {"readings": int(row["readings"])} for row in rows]


def _table(fit: Fit) -> Table:
    """Measured and fitted spreads side by side."""
    title = f"{escape(fit.source)}: chi-square per degree of freedom {fit.chi_square:.2f}"
    table = Table(title=title, title_justify="left")
    rows = _rows(fit)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(shown, row.values()))
    return table


def _as_json(fits: list[Fit], target: Target) -> str:
    told = [{"source": f.source, "chi_square": f.chi_square, "rows": _rows(f)} for f in fits]
    return json.dumps({"fits": told, "target": yaml.safe_load(target.to_yaml())}, indent=2)


def _as_csv(fits: list[Fit]) -> str:
    return csv_text([{"source": fit.source} | row for fit in fits for row in _rows(fit)])
