"""What the demo leaves behind: a table, a plot, the curves and the models."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from analogize.demo.demo import NOISY, Outcome
from analogize.display.tables import csv_text
from analogize.errors import EvaluationError
from analogize.evaluation.evaluation import Level
from analogize.evaluation.plot import mark, write_figure
from analogize.files.writing import writing
from analogize.targets.spec import GaussianNoise


def make_folder(folder: Path) -> None:
    """Make the demo's folder, so that a bad path fails before the training.

    Raises:
        EvaluationError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise EvaluationError(
            f"cannot make the folder {folder}: {cause.strerror}; choose another with --out"
        ) from cause


def write_results(outcome: Outcome, folder: Path) -> None:
    """Write everything into ``folder``, over what an earlier run left there.

    Raises:
        EvaluationError: a file cannot be written.
    """
    texts = {
        "summary.txt": str(outcome.summary),
        "table.txt": render(results_table(outcome)),
        "table.csv": csv_text(list(results_rows(outcome))),
    }
    for name, text in texts.items():
        with writing(folder / name, "the results", EvaluationError) as draft:
            draft.write_text(text, encoding="utf-8", newline="")
    models = {"digital.pt": outcome.network, "fine-tuned.pt": outcome.models[NOISY]}
    for name, model in models.items():
        with writing(folder / name, "the weights", EvaluationError, (RuntimeError,)) as draft:
            torch.save(model.state_dict(), draft)
    for arm, curve in outcome.curves.items():
        curve.save(folder / f"{_file_name(arm)}.json")
    plot(outcome, folder / "robustness.png")


def results_table(outcome: Outcome) -> Table:
    """Accuracy (mean ± one standard deviation over chips) by noise level and model."""
    digital = f"{outcome.digital_accuracy:.4f}"
    table = Table(
        title=f"Accuracy: {outcome.title}; digital {digital}",
        title_justify="left",
        caption="mean ± standard deviation over chips; * the target's own noise",
        caption_justify="left",
    )
    table.add_column("eta", justify="right")
    for arm in outcome.curves:
        table.add_column(arm, justify="right")
    own = _own_level(outcome)
    for levels in zip(*(curve.levels for curve in outcome.curves.values()), strict=True):
        eta = f"{levels[0].eta:g}" + ("*" if levels[0].eta == own else " ")
        table.add_row(eta, *map(_cell, levels))
    return table


def render(table: Table) -> str:
    """The table as plain text."""
    stream = StringIO()
    Console(file=stream, width=100, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def plot(outcome: Outcome, path: Path) -> None:
    """Draw accuracy against eta for every arm, with the digital accuracy and the target's level.

    Raises:
        EvaluationError: the figure cannot be written.
    """
    axes = Figure(figsize=(7, 4.4), layout="constrained").subplots()
    for arm, curve in outcome.curves.items():
        curve.plot(ax=axes, label=arm)
    mark(axes, outcome.digital_accuracy, _own_level(outcome), outcome.target.name)
    axes.set_title(outcome.title, fontsize="medium")
    axes.legend(title="mean, 95 % interval, ± 1 std", title_fontsize="small", loc="center left")
    write_figure(axes, path)


def _own_level(outcome: Outcome) -> float:
    noise = outcome.target.noise[0]
    assert isinstance(noise, GaussianNoise), "noise_levels() refuses other targets"
    return noise.eta


def _cell(level: Level) -> str:
    if level.mean is None:
        return "-"
    return f"{level.mean:.4f}" + (f" ± {level.std:.4f}" if level.std else " " * 9)


def results_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """A dictionary a model and noise level."""
    for arm, curve in outcome.curves.items():
        for row in curve.to_rows():
            yield {"model": arm} | row


def _file_name(arm: str) -> str:
    """``fine-tuned, eta 0.15`` -> ``fine-tuned-eta-0.15``."""
    return arm.replace(",", "").replace(" ", "-")
