"""``analogize evaluate``: a trained model on so many programmed chips, from the command line."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from analogize.api import analogize
from analogize.calibrate import calibrate
from analogize.data import NAMES, ImageTensors, load_dataset
from analogize.errors import AnalogizeError, EvaluationError
from analogize.ops import operators

if TYPE_CHECKING:
    from analogize.evaluation import Evaluation

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Import path 'package.module:factory' of the model.")
]
ModelArguments = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Argument of the factory; repeatable."),
]
Weights = Annotated[
    Path | None, typer.Option(help="state_dict to load; without it, the factory's own weights.")
]
Target = Annotated[str, typer.Option(help="Built-in target name or the path of a YAML file.")]
Name = Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")]
Root = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.")]
Eta = Annotated[
    str,
    typer.Option(help="Noise levels, separated by commas; 'target' is the target's own noise."),
]
Instances = Annotated[int, typer.Option(help="Programmed chips a noise level.")]
Seed = Annotated[int, typer.Option(help="What the chips' seeds derive from.")]
BatchSize = Annotated[int, typer.Option(help="Images a batch.")]
CalibrationBatches = Annotated[
    int, typer.Option(help="Batches of training images that fix the converters' ranges.")
]
Limit = Annotated[int | None, typer.Option(help="Evaluate on so many images only.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize and crop the images of an image folder to squares.")
]
Cache = Annotated[Path | None, typer.Option(help="Where to keep the decoded images of a folder.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch the data set.")]
Device = Annotated[str, typer.Option(help="Where to run, for example cpu or cuda.")]
Out = Annotated[
    Path | None,
    typer.Option(help="JSON file, written after every chip; an interrupted run goes on from it."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where --out exists.")]
Plot = Annotated[Path | None, typer.Option(help="Figure of the metric against eta.")]


def evaluate_command(
    model: Model,
    dataset: Name,
    data: Root = None,
    weights: Weights = None,
    target: Target = "pcm_4bit",
    eta: Eta = "target",
    instances: Instances = 50,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    calibration_batches: CalibrationBatches = 8,
    limit: Limit = None,
    out: Out = None,
    plot: Plot = None,
    overwrite: Overwrite = False,
    model_arg: ModelArguments = None,
    image_size: ImageSize = None,
    cache: Cache = None,
    download: Download = False,
    device: Device = "cpu",
) -> None:
    """Measure a model's accuracy on programmed chips of a target, at one or several noise levels.

    The model is rewritten for the target, its converters are calibrated on training images, and
    every chip sees the whole test split.
    """
    # Imported here, so that other commands do not wait for Matplotlib and torchmetrics.
    from analogize.montecarlo import evaluate
    from analogize.plot import check_figure_path

    options: dict[str, Any] = {"image_size": image_size, "cache": cache, "download": download}
    try:
        etas, place = _parse_etas(eta), _parse_device(device)
        if plot is not None:
            check_figure_path(plot)
        network = build_model(model, model_arg or []).to(place)
        state = {} if weights is None else read_weights(weights)
        test = load_dataset(dataset, data, train=False, limit=limit, **options)
        batches = test.batches(batch_size)
        analog = _rewrite(network, state, target, test)
        if not all(op.is_calibrated for op in operators(analog)):
            count = _at_least_one("--calibration-batches", calibration_batches)
            train = load_dataset(dataset, data, train=True, limit=count * batch_size, **options)
            calibrate(analog, train.batches(batch_size))
        if out is not None and overwrite:
            out.unlink(missing_ok=True)
        result = evaluate(analog, batches, eta=etas, instances=instances, seed=seed, resume=out)
        _report(result, out, plot)
    except AnalogizeError as error:
        raise _refused(error) from error
    except KeyboardInterrupt as error:
        kept = "" if out is None else f"; the same command goes on from {out}"
        Console(stderr=True).print(f"Interrupted{kept}", style="yellow", soft_wrap=True)
        raise typer.Exit(130) from error


def build_model(path: str, arguments: list[str]) -> nn.Module:
    """Call the factory at ``package.module:name`` with ``key=value`` arguments.

    Values are read as Python literals where they are such, and as text otherwise. Modules of the
    current folder can be imported.

    Raises:
        EvaluationError: there is no such factory, or it fails or returns no module.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise EvaluationError(f"model '{path}' must read package.module:factory")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as cause:
        raise EvaluationError(f"cannot import the model '{path}': {cause}") from cause
    keywords = dict(map(_parse_argument, arguments))
    try:
        model = factory(**keywords)
    except Exception as cause:
        called = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise EvaluationError(
            f"{path}({called}) failed: {type(cause).__name__}: {cause}; pass its arguments with "
            "--model-arg key=value"
        ) from cause
    if not isinstance(model, nn.Module):
        raise EvaluationError(f"{path} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a ``state_dict``, or the one under ``"state_dict"`` of a checkpoint, onto the CPU.

    Only tensors and plain containers are unpickled (``weights_only=True``).

    Raises:
        EvaluationError: the file cannot be read or holds something else.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as cause:
        reason = str(cause).strip().split("\n")[0]
        raise EvaluationError(f"cannot read the weights {path}: {reason}") from cause
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise EvaluationError(
            f"{path} holds {type(loaded).__name__}, not a state_dict; save one with "
            "torch.save(model.state_dict(), path)"
        )
    return dict(loaded)


def _rewrite(
    model: nn.Module, state: dict[str, Tensor], target: str, test: ImageTensors
) -> nn.Module:
    """Load weights and rewrite; a rewritten model's own ``state_dict`` brings its ranges along."""
    names = model.state_dict().keys()
    plain = {key: value for key, value in state.items() if key in names}
    if state:
        _load(model, plain)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = test.take(2).batches(2)
    example = next(iter(inputs))[0].to(device)
    analog = analogize(model.eval(), target, example_inputs=example, inplace=True)
    if len(plain) < len(state):
        _load(analog, state)
    return analog


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as cause:
        raise EvaluationError(f"the weights do not fit the model: {cause}") from cause


def _report(result: Evaluation, out: Path | None, plot: Path | None) -> None:
    typer.echo(str(result))
    if out is not None:
        typer.echo(f"values of every chip: {out}")
    if plot is not None:
        result.plot(plot)
        typer.echo(f"plot: {plot}")


def _parse_etas(text: str) -> list[float | None]:
    def one(part: str) -> float | None:
        try:
            return None if part == "target" else float(part)
        except ValueError as cause:
            raise EvaluationError(
                f"--eta '{text}': '{part}' is no number; give for example 0,0.02,0.04, or 'target'"
            ) from cause

    return [one(part.strip()) for part in text.split(",")]


def _parse_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise EvaluationError(f"--model-arg '{text}' must read key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _parse_device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:
        reason = str(cause).split("\n")[0]
        raise EvaluationError(f"--device '{text}' cannot be used: {reason}") from cause
    return device


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise EvaluationError(f"{name} is {value}; this target's converters need at least 1")
    return value


def _refused(error: AnalogizeError) -> typer.Exit:
    line = " ".join(str(error).split())
    Console(stderr=True).print(f"[red]{escape(line)}[/red]", soft_wrap=True)
    return typer.Exit(1)
