"""Arguments and options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from analogize.demo.data import NAMES
from analogize.errors import EvaluationError

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model or what makes it: package.module:name or file.py:name; an ONNX file that "
        "analogize wrote; or a folder of save_pretrained of Hugging Face's. With --weights FILE, "
        "what analogize.save() wrote of it.",
    ),
]
ModelArguments = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="KEY=VALUE", help="Argument of the factory; repeatable."),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="A state_dict, a checkpoint, or what analogize.save() wrote (.safetensors), which "
        "brings its target; without, the factory's own weights."
    ),
]
Target = Annotated[str, typer.Option(help="Built-in target name or the path of a YAML file.")]
AllowFunctions = Annotated[
    bool,
    typer.Option("--allow-functions", help="Let the target's own Python functions run, if any."),
]
Name = Annotated[
    str | None, typer.Option("--dataset", help=f"A known data set: {', '.join(NAMES)}.")
]
Loader = Annotated[
    str | None,
    typer.Option(
        "--loader",
        metavar="FILE.py:NAME",
        help="Your own data: a function that returns batches of (inputs, targets). One with an "
        "argument 'train' is called twice: True for calibration, False to measure.",
    ),
]
Root = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.")]
Seed = Annotated[int, typer.Option(help="What the chips' seeds derive from.")]
BatchSize = Annotated[int, typer.Option(help="Images of --dataset a batch.")]
CalibrationBatches = Annotated[
    int, typer.Option(help="Batches of training data that fix the converters' ranges.")
]
Limit = Annotated[int | None, typer.Option(help="Evaluate on so many images only.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize and crop the images of an image folder to squares.")
]
Cache = Annotated[Path | None, typer.Option(help="Where to keep the decoded images of a folder.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch the data set.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="Print comma-separated values and nothing else.")
]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        "--condition",
        metavar="NAME=VALUE",
        help="Under which chips are read, for models that depend on it: temperature=350 (kelvin), "
        "or a name that a function of yours knows; repeatable.",
    ),
]
Device = Annotated[str, typer.Option(help="Where to run, for example cpu or cuda.")]


def parse_conditions(given: Iterable[str] | None) -> dict[str, float] | None:
    """Conditions by name, as ``program`` takes them; None for none.

    Args:
        given: texts of the form ``name=value``.

    Raises:
        EvaluationError: a text of another form, or one name twice.
    """
    found: dict[str, float] = {}
    for text in given or ():
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            number = float(value)
        except ValueError as cause:
            raise EvaluationError(
                f"--condition '{text}' is no NAME=VALUE with a number; give for example "
                "temperature=350"
            ) from cause
        if not name or name in found:
            reason = "gives that name twice" if name else "has no name"
            raise EvaluationError(f"--condition '{text}' {reason}; give each condition once")
        found[name] = number
    return found or None
