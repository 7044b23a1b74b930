"""``analogize report``: everything about one model on one target in a single HTML file."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from analogize.cli.data import load_data
from analogize.cli.options import (
    AllowFunctions,
    BatchSize,
    Cache,
    CalibrationBatches,
    Device,
    Download,
    ImageSize,
    Limit,
    Loader,
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
    parse_device,
    read_weights,
    rewrite,
)
from analogize.crossbar import noise
from analogize.devices.times import seconds
from analogize.errors import EvaluationError, ExportError
from analogize.targets import load_target
from analogize.targets.noise import DriftNoise, LogDriftNoise, OneOverFNoise, RelaxationNoise
from analogize.targets.spec import Target as Spec

_TIMED = (DriftNoise, LogDriftNoise, OneOverFNoise, RelaxationNoise)

Out = Annotated[Path, typer.Option(help="HTML file to write.")]
Levels = Annotated[
    str | None,
    typer.Option(
        help="Noise levels, separated by commas; 'target' is the target's own noise. By default 0, "
        "1/2, 1, 2 and 4 times the target's level, or its own noise where that has no level."
    ),
]
Times = Annotated[
    str | None,
    typer.Option(
        help="When chips are read after programming, for example '0 s, 1 hour, 1 day'; by default "
        "up to a year where the target's noise changes with time."
    ),
]
Instances = Annotated[int, typer.Option(help="Programmed chips a noise level, at least 4.")]
Samples = Annotated[int, typer.Option(help="Inputs for the mutual information.")]


def report_command(
    model: Model,
    dataset: Name = None,
    loader: Loader = None,
    out: Out = Path("report.html"),
    data: Root = None,
    weights: Weights = None,
    target: Target = "pcm_4bit",
    eta: Levels = None,
    drift_time: Times = None,
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
    device: Device = "cpu",
    allow_functions: AllowFunctions = False,
) -> None:
    """Analyse a trained classifier on a target and write one self-contained HTML report.

    Robustness over noise levels or over time, bias and variance, mutual information, sensitivity of
    each region, and what the converters clip, on the test split; with the target's own noise where
    only one region is noisy.

    For example:

      analogize report net.py:Net --loader net.py:batches --weights net.pt --target pcm_8bit
    """
    # Imported here, so that other commands do not wait for Matplotlib, SciPy and torchmetrics.
    from analogize.analysis.converter_use import converter_use
    from analogize.analysis.drops import Drops
    from analogize.analyze import bias_variance, mutual_information, sensitivity
    from analogize.evaluation.montecarlo import evaluate
    from analogize.report.report import write_report

    _check(out, instances)
    loaded = load_target(target, allow_functions=allow_functions)
    place = parse_device(device)
    levels, times = _levels(eta, loaded), _times(drift_time, loaded)
    network = build_model(model, model_arg or [], weights, allow_functions).to(place)
    state = read_weights(weights)
    options: dict[str, Any] = {"image_size": image_size, "cache": cache, "download": download}
    source = load_data(dataset, loader, data, batch_size, calibration_batches, limit, **options)
    batches = source.test
    analog = rewrite(network, state, loaded, source.example, source.calibration)
    count = samples if source.samples is None else min(samples, source.samples)
    write_report(
        out,
        analog,
        title=f"{model} on {loaded.name}",
        description=loaded.description,
        command=shlex.join(["analogize", *sys.argv[1:]]),
        clean=Drops(analog, batches, seed).baseline,
        evaluation=evaluate(
            analog, batches, "accuracy", levels, instances, seed, drift_time=times or None
        ),
        decomposition=bias_variance(analog, batches, levels, instances, seed=seed),
        information=mutual_information(
            analog, list(source.shuffled(seed)), levels, count, instances, seed=seed
        ),
        sensitivity=sensitivity(analog, batches, instances=instances, seed=seed),
        converters=converter_use(analog, batches),
    )
    typer.echo(f"report: {out}")


def _check(out: Path, instances: int) -> None:
    """Refuse now what would otherwise end a long run."""
    if not out.resolve().parent.is_dir() or out.is_dir():
        raise ExportError(f"cannot write the report to {out}: name a file in an existing folder")
    if instances < 4:
        raise EvaluationError(
            f"--instances is {instances}; the estimates need at least 4 chips a level"
        )


def _levels(text: str | None, target: Spec) -> list[float | None]:
    """The levels asked for; by default around the target's own, or its noise as it is."""
    if text is None:
        own = [noise.level(model) for model in target.noise if noise.has_level(model)]
        if len(target.noise) == len(own) == 1 and own[0] > 0:
            return [factor * own[0] for factor in (0, 0.5, 1, 2, 4)]
        return [None]
    try:
        return [None if part.strip() == "target" else float(part) for part in text.split(",")]
    except ValueError as cause:
        raise EvaluationError(
            f"--eta '{text}' must be numbers or 'target', for example 0,0.02,0.04"
        ) from cause


def _times(text: str | None, target: Spec) -> list[float]:
    """The times asked for; by default from the first reading to a year, as far as is known."""
    if text is not None:
        return [seconds(part) for part in text.split(",")]
    if not any(isinstance(model, _TIMED) for model in target.noise):
        return []
    known = [m.points[-1].time for m in target.noise if isinstance(m, RelaxationNoise)]
    last = min(known, default=math.inf)
    times = {0.0, *map(seconds, ("1 hour", "1 day", "1 month", "1 year")), last}
    return sorted(time for time in times if time <= last and time < math.inf)
