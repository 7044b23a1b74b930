"""``analogize demo``: train, rewrite, fine-tune and measure a small network, without a download."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from analogize.cli.options import AsCsv, AsJson
from analogize.display.tables import csv_text

Out = Annotated[Path, typer.Option(help="Folder for table, plot, curves and models.")]
Dataset = Annotated[
    str, typer.Option(help="digits (comes with scikit-learn) or mnist (needs --data).")
]
Data = Annotated[Path | None, typer.Option(help="Folder of MNIST in torchvision's layout.")]
Target = Annotated[str, typer.Option(help="Built-in target name or the path of a YAML file.")]
Seed = Annotated[int, typer.Option(help="Of weights, batches, training noise and chips.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Epochs of training; fine-tuning takes twice as many.")
]
Instances = Annotated[int | None, typer.Option(min=1, help="Programmed chips a noise level.")]


def demo_command(
    out: Out = Path("analogize-demo"),
    data: Data = None,
    dataset: Dataset = "digits",
    seed: Seed = 0,
    epochs: Epochs = None,
    instances: Instances = None,
    target: Target = "pcm_4bit",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Train a small network, rewrite it for a target, fine-tune it with noise, measure it.

    Accuracy against eta is measured on programmed chips for the network as it was trained, for a
    copy fine-tuned with weight noise, and for a control fine-tuned without.
    """
    # Imported here, so that other commands do not wait for Matplotlib and torchmetrics.
    from analogize.demo.demo import run_demo
    from analogize.demo.demo_results import (
        make_folder,
        render,
        results_rows,
        results_table,
        write_results,
    )

    make_folder(out)
    quiet = as_json or as_csv
    say = partial(typer.echo, err=quiet)
    outcome = run_demo(
        dataset, data, target, seed=seed, epochs=epochs, instances=instances, say=say
    )
    write_results(outcome, out)
    if quiet:
        rows = list(results_rows(outcome))
        typer.echo(json.dumps(rows, indent=2) if as_json else csv_text(rows), nl=as_json)
        return
    typer.echo(render(results_table(outcome)))
    typer.echo(f"Table, plot, curves and models are in {out.resolve()}")
