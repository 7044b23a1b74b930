"""``analogize evaluate``: a trained model on so many programmed chips, from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from analogize.cli.data import load_data
from analogize.cli.options import (
    AllowFunctions,
    AsCsv,
    AsJson,
    BatchSize,
    Cache,
    CalibrationBatches,
    Conditions,
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
    parse_conditions,
)
from analogize.cli.prepare import (
    build_model,
    parse_device,
    read_weights,
    rewrite,
)
from analogize.devices.times import describe
from analogize.errors import EvaluationError
from analogize.targets import load_target

if TYPE_CHECKING:
    from analogize.evaluation.evaluation import Evaluation

Eta = Annotated[
    str,
    typer.Option(help="Noise levels, separated by commas; 'target' is the target's own noise."),
]
Instances = Annotated[
    int, typer.Option(help="Programmed chips a noise level; with --precision those of the pilot.")
]
Precision = Annotated[
    float | None,
    typer.Option(
        metavar="HALF-WIDTH",
        help="Go on until each level's 95 % interval is at most so far from its mean (0.001 for "
        "0.1 points of accuracy).",
    ),
]
AtOnce = Annotated[
    int,
    typer.Option(help="Chips in one batched pass; pays for small models, few images a batch."),
]
DriftTimes = Annotated[
    str | None,
    typer.Option(
        "--drift-time",
        metavar="TIMES",
        help="When the chips are read, counted from programming and separated by commas: '0 s,1 "
        "hour,1 day,1 year'.",
    ),
]
Correction = Annotated[
    Literal["none", "global", "tile", "column"] | None,
    typer.Option(
        "--compensation",
        help="Digital correction of drift: none, a factor an array, a tile or a column; the "
        "target's own by default.",
    ),
]
Recalibrate = Annotated[
    bool,
    typer.Option(
        "--recalibrate",
        help="Re-estimate BatchNorm on every chip, on the images that calibrate the converters.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="JSON file, written after every chip; an interrupted run goes on from it."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where --out exists.")]
YieldAbove = Annotated[
    float | None,
    typer.Option(
        metavar="THRESHOLD",
        help="Say how many chips reach so much, with an exact 95 % interval (0.9 for 90 %).",
    ),
]
Plot = Annotated[Path | None, typer.Option(help="Figure of the metric against eta or time.")]


def evaluate_command(
    model: Model,
    dataset: Name = None,
    loader: Loader = None,
    data: Root = None,
    weights: Weights = None,
    target: Target = "pcm_4bit",
    eta: Eta = "target",
    instances: Instances = 50,
    precision: Precision = None,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    calibration_batches: CalibrationBatches = 8,
    limit: Limit = None,
    out: Out = None,
    plot: Plot = None,
    overwrite: Overwrite = False,
    at_once: AtOnce = 1,
    drift_time: DriftTimes = None,
    compensation: Correction = None,
    condition: Conditions = None,
    recalibrate: Recalibrate = False,
    yield_above: YieldAbove = None,
    model_arg: ModelArguments = None,
    image_size: ImageSize = None,
    cache: Cache = None,
    download: Download = False,
    device: Device = "cpu",
    allow_functions: AllowFunctions = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Measure a model's accuracy on programmed chips of a target, at noise levels and over time.

    The model is rewritten for the target, its converters are calibrated on training images, and
    every chip sees the whole test split.

    For example:

      analogize evaluate net.py:Net --loader net.py:batches --weights net.pt

      analogize evaluate torchvision.models:resnet18 --dataset imagefolder --data DIR
      --eta 0,0.02,0.04 --out run.json
    """
    # Imported here, so that other commands do not wait for Matplotlib and torchmetrics.
    from analogize.evaluation.montecarlo import evaluate
    from analogize.evaluation.plot import check_figure_path

    etas, place = _parse_etas(eta), parse_device(device)
    conditions = parse_conditions(condition)
    loaded = load_target(target, allow_functions=allow_functions)
    if plot is not None:
        check_figure_path(plot)
    network = build_model(model, model_arg or [], weights, allow_functions).to(place)
    state = read_weights(weights)
    options: dict[str, Any] = {"image_size": image_size, "cache": cache, "download": download}
    source = load_data(dataset, loader, data, batch_size, calibration_batches, limit, **options)
    analog = rewrite(network, state, loaded, source.example, source.calibration)
    if out is not None and overwrite:
        out.unlink(missing_ok=True)
    with _told_if_interrupted(out):
        result = evaluate(
            analog,
            source.test,
            eta=etas,
            instances=instances,
            seed=seed,
            precision=precision,
            at_once=at_once,
            drift_time=None if drift_time is None else drift_time.split(","),
            compensation=compensation,
            conditions=conditions,
            recalibration=source.calibration() if recalibrate else None,
            resume=out,
        )
    _report(result, out, plot, as_json, as_csv)
    if yield_above is not None:
        _tell_yields(result, yield_above, as_json or as_csv)


@contextmanager
def _told_if_interrupted(out: Path | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        kept = "" if out is None else f"; the same command goes on from {out}"
        Console(stderr=True).print(f"Interrupted{kept}", style="yellow", soft_wrap=True)
        raise typer.Exit(130) from error


def _tell_yields(result: Evaluation, threshold: float, quiet: bool) -> None:
    """The share of chips above a threshold, a line a level."""
    for level, found in zip(result.levels, result.yield_above(threshold), strict=True):
        eta = "the target's own noise" if level.eta is None else f"eta {level.eta:g}"
        time = "" if level.drift_time is None else f", {describe(level.drift_time)} later"
        typer.echo(f"{eta}{time}: {found}", err=quiet)


def _report(
    result: Evaluation, out: Path | None, plot: Path | None, as_json: bool, as_csv: bool
) -> None:
    """The result, and what was written; the latter on standard error beside JSON or CSV."""
    quiet = as_json or as_csv
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True, indent=1))
    else:
        typer.echo(result.to_csv() if as_csv else str(result), nl=not as_csv)
    if out is not None:
        typer.echo(f"values of every chip: {out}", err=quiet)
    if plot is not None:
        result.plot(plot)
        typer.echo(f"plot: {plot}", err=quiet)


def _parse_etas(text: str) -> list[float | None]:
    def one(part: str) -> float | None:
        try:
            return None if part == "target" else float(part)
        except ValueError as cause:
            raise EvaluationError(
                f"--eta '{text}': '{part}' is no number; give for example 0,0.02,0.04, or 'target'"
            ) from cause

    return [one(part.strip()) for part in text.split(",")]
