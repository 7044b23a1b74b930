"""``analogize report``: everything about one model on one target in a single HTML file."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from analogize.cli.options import (
    BatchSize,
    Cache,
    CalibrationBatches,
    Download,
    ImageSize,
    Limit,
    Model,
    ModelArguments,
    Name,
    Root,
    Seed,
    Target,
    Weights,
)
from analogize.cli.prepare import (
    build_model,
    first_inputs,
    read_weights,
    rewrite,
    training_batches,
)
from analogize.data import load_dataset
from analogize.errors import EvaluationError
from analogize.targets import load_target

Out = Annotated[Path, typer.Option(help="HTML file to write.")]
Levels = Annotated[str, typer.Option(help="Noise levels from 0, separated by commas.")]
Instances = Annotated[int, typer.Option(help="Programmed chips a noise level, at least 4.")]
Samples = Annotated[int, typer.Option(help="Inputs for the mutual information.")]


def report_command(
    model: Model,
    dataset: Name,
    out: Out = Path("report.html"),
    data: Root = None,
    weights: Weights = None,
    target: Target = "pcm_4bit",
    eta: Levels = "0,0.02,0.04,0.08",
    instances: Instances = 20,
    samples: Samples = 100,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    calibration_batches: CalibrationBatches = 8,
    limit: Limit = None,
    model_arg: ModelArguments = None,
    image_size: ImageSize = None,
    cache: Cache = None,
    download: Download = False,
) -> None:
    """Analyse a trained classifier on a target and write one self-contained HTML report.

    Robustness, bias and variance, mutual information, sensitivity of each region, and what the
    converters clip, on the test split; with the target's own noise where only one region is noisy.
    """
    # Imported here, so that other commands do not wait for Matplotlib, SciPy and torchmetrics.
    from analogize.analyze import bias_variance, mutual_information, sensitivity
    from analogize.converter_use import converter_use
    from analogize.montecarlo import evaluate
    from analogize.report import write_report

    levels, loaded = _levels(eta), load_target(target)
    network, state = build_model(model, model_arg or []), read_weights(weights)
    options: dict[str, Any] = {"image_size": image_size, "cache": cache, "download": download}
    test = load_dataset(dataset, data, train=False, limit=limit, **options)
    batches = test.batches(batch_size)
    calibration = partial(
        training_batches, dataset, data, calibration_batches, batch_size, **options
    )
    analog = rewrite(network, state, loaded, first_inputs(test), calibration)
    shuffled = test.batches(batch_size, generator=torch.Generator().manual_seed(seed))
    write_report(
        out,
        analog,
        title=f"{model} on {loaded.name}",
        command=shlex.join(["analogize", *sys.argv[1:]]),
        evaluation=evaluate(analog, batches, "accuracy", levels, instances, seed),
        decomposition=bias_variance(analog, batches, levels, instances, seed=seed),
        information=mutual_information(
            analog, list(shuffled), levels, min(samples, len(test)), instances, seed=seed
        ),
        sensitivity=sensitivity(analog, batches, instances=instances, seed=seed),
        converters=converter_use(analog, batches),
    )
    typer.echo(f"report: {out}")


def _levels(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as cause:
        raise EvaluationError(f"--eta '{text}' must be numbers, for example 0,0.02,0.04") from cause
