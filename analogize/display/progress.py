"""The progress bar of long runs, on standard error."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def can_show_bar(console: Console) -> bool:
    """Whether a bar has a place: a terminal, or a notebook that has widgets.

    A log file would get blank lines for a bar, and a notebook without widgets a warning.
    """
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def progress_bar(shown: bool) -> Progress:
    """A bar that vanishes at the end; none where it has no place."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown or not can_show_bar(console),
    )
