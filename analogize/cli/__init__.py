"""The command line: one file a subcommand, and one place for errors.

Exit status: 0 done; 1 refused, with the reason in red on standard error (whatever analogize raises
on purpose); 2 a wrong command line; 130 interrupted. Any other exception is a defect, and keeps its
traceback.

Enters: arguments. Leaves: tables, files, an exit status.
May use: every room.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from analogize.cli import chip, targets
from analogize.cli.demo import demo_command
from analogize.cli.evaluate import evaluate_command
from analogize.cli.export import export_command
from analogize.cli.inspect import inspect_command
from analogize.cli.load import load_command
from analogize.cli.report import report_command
from analogize.cli.show import show_command
from analogize.cli.summary import summary_command
from analogize.errors import AnalogizeError


class _Group(TyperGroup):
    """Turns an ``AnalogizeError`` of any command into a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            done = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # while there is somebody to tell that nothing went through
            return done
        except AnalogizeError as error:
            Console(stderr=True).print(f"[red]{escape(str(error))}[/red]", soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            kept = "Interrupted; nothing was kept (evaluate --out FILE keeps what is done)"
            Console(stderr=True).print(kept, style="yellow", soft_wrap=True)
            raise typer.Exit(130) from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # a broken pipe is not one of these: typer ends silently there
            if not _lose_output():
                raise
            reason = f"standard output cannot be written: {error.strerror}"
            Console(stderr=True).print(f"[red]{escape(reason)}[/red]", soft_wrap=True)
            sys.exit(1)


def _lose_output() -> bool:
    """Whether standard output refuses to be written to; it is then given up."""
    if sys.stdout is None:
        return False
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="A compiler for analog in-memory-computing hardware.",
    epilog="Exit status: 0 done, 1 refused (the reason is on standard error), 2 wrong command "
    "line, 130 interrupted.",
)
app.command("demo")(demo_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("inspect")(inspect_command)
app.command("load")(load_command)
app.command("report")(report_command)
app.command("show")(show_command)
app.command("summary")(summary_command)
app.add_typer(chip.app, name="chip")
app.add_typer(targets.app, name="targets")


def _print_version(asked: bool) -> None:
    if asked:
        versions = (f"{name} {metadata.version(name)}" for name in ("analogize", "torch"))
        typer.echo(", ".join(versions))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Versions.")
    ] = False,
) -> None:
    """Rewrite PyTorch models for analog in-memory-computing hardware, and measure them on it."""
