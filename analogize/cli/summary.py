"""``analogize summary``: what of a model becomes analog, what does not, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from analogize.cli.data import load_data
from analogize.cli.options import (
    AllowFunctions,
    AsCsv,
    AsJson,
    Download,
    ImageSize,
    Loader,
    Model,
    ModelArguments,
    Name,
    Root,
    Target,
    Weights,
)
from analogize.cli.prepare import build_model, read_weights, rewrite
from analogize.errors import EvaluationError
from analogize.report.summary import summary
from analogize.targets import load_target

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE[:TYPE]",
        help="Shape of an example input, such as 1,3,224,224 or 1,128:int64; again for the next. "
        "It gives each layer's share of the work.",
    ),
]
Digital = Annotated[
    list[str] | None,
    typer.Option("--digital", metavar="NAME", help="Layer to keep digital, or a glob; repeatable."),
]
Draw = Annotated[
    Path | None, typer.Option("--draw", metavar="FILE.svg", help="Draw the graph as well.")
]

Cost = Annotated[
    bool, typer.Option("--cost", help="Show what every layer costs of one inference as well.")
]


def summary_command(
    model: Model,
    target: Target = "pcm_4bit",
    shapes: Inputs = None,
    dataset: Name = None,
    loader: Loader = None,
    data: Root = None,
    weights: Weights = None,
    digital: Digital = None,
    draw: Draw = None,
    model_arg: ModelArguments = None,
    image_size: ImageSize = None,
    download: Download = False,
    allow_functions: AllowFunctions = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    cost: Cost = False,
) -> None:
    """Show what of a model becomes analog, what stays digital, and why.

    No data are needed. With --input, --dataset or --loader the work of every layer is known too,
    and with one of the last two the converters are calibrated.

    For example:

      analogize summary torchvision.models:resnet18 --input 1,3,224,224

      analogize summary net.py:Net --target my_chip.yaml --loader net.py:batches --csv
    """
    loaded = load_target(target, allow_functions=allow_functions)
    network = build_model(model, model_arg or [], weights, allow_functions)
    state = read_weights(weights)
    example: Any = None if not shapes else tuple(map(_example, shapes))
    calibration = None
    if dataset is not None or loader is not None:
        options: dict[str, Any] = {"image_size": image_size, "download": download}
        source = load_data(dataset, loader, data, **options)
        calibration = source.calibration
        example = source.example if example is None else example
    found = summary(rewrite(network, state, loaded, example, calibration, digital or ()))
    if as_json or as_csv:
        rows = found.to_rows()
        told = {"target": found.target, "converted_share": found.converted_share, "regions": rows}
        typer.echo(json.dumps(told, indent=2) if as_json else found.to_csv(), nl=as_json)
    else:
        typer.echo(str(found), nl=False)
    if cost:
        work = found.work
        table = "the work is unknown without --input or data" if work is None else work.table()
        typer.echo(table, err=as_json or as_csv)
    if draw is not None:
        typer.echo(f"drawing: {found.draw(draw)}", err=as_json or as_csv)


def _example(text: str) -> Tensor:
    """A tensor of the shape and type that ``text`` names: ones, or zeros of an integer type."""
    shape, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        sizes = [int(size) for size in shape.split(",")]
        if not isinstance(dtype, torch.dtype) or min(sizes) < 1:
            raise ValueError
    except ValueError as cause:
        raise EvaluationError(
            f"--input '{text}' must be sizes of at least 1 and a type of torch's, for example "
            "1,3,224,224 or 1,128:int64"
        ) from cause
    # Noise rather than zeros, which would hide a wrong rewriting from the check that follows.
    seeded = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=seeded).to(dtype)
    return torch.zeros(sizes, dtype=dtype)
