"""``analogize export``: a model as annotated ONNX, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor
from torch.utils._pytree import tree_map

from analogize.cli.data import load_data
from analogize.cli.options import (
    CalibrationBatches,
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
from analogize.errors import ExportError

File = Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to write.")]
AsForm = Annotated[str, typer.Option("--form", help="flat or functions.")]
Noise = Annotated[
    str, typer.Option(help="none, runtime (fresh at every run), or the seed of a chip.")
]
Store = Annotated[str, typer.Option(help="Stored weights: auto (INT4 or UINT8), int8 or float.")]
Arithmetic = Annotated[
    str,
    typer.Option(help="float, integer, plain (no quantized types; all exact), or qdq (fastest)."),
]
Static = Annotated[bool, typer.Option("--static-batch", help="Fix the batch size at 1.")]
Opset = Annotated[int, typer.Option(help="ONNX opset, 18 to 23; no 4-bit codes before 21.")]

_BATCH = 64


def export_command(
    model: Model,
    file: File,
    dataset: Name = None,
    loader: Loader = None,
    data: Root = None,
    weights: Weights = None,
    target: Target = "pcm_4bit",
    form: AsForm = "flat",
    noise: Noise = "none",
    store: Store = "auto",
    arithmetic: Arithmetic = "float",
    static_batch: Static = False,
    opset: Opset = 21,
    calibration_batches: CalibrationBatches = 8,
    model_arg: ModelArguments = None,
    image_size: ImageSize = None,
) -> None:
    """Rewrite a model for a target, calibrate it on training images, and write annotated ONNX.

    For example:

      analogize export net.py:Net net.onnx --loader net.py:batches --weights net.pt
    """
    # Imported here, so that other commands do not wait for onnx.
    from analogize.onnx.writing.export import export_onnx

    network, state = build_model(model, model_arg or [], weights), read_weights(weights)
    source = load_data(
        dataset,
        loader,
        data,
        _BATCH,
        calibration_batches,
        image_size=image_size,
    )
    analog = rewrite(network, state, target, source.example, source.calibration)
    sample = tree_map(_first, source.example)
    exported = export_onnx(
        analog,
        file,
        sample,
        form,  # type: ignore[arg-type]
        _noise(noise),
        not static_batch,
        weights=store,  # type: ignore[arg-type]
        arithmetic=arithmetic,  # type: ignore[arg-type]
        opset=opset,
    )
    promise = exported.numerics
    equal = "equal torch's bit for bit" if promise.exact else "are near torch's:"
    typer.echo(f"{file}: {len(exported.manifest.regions)} regions, {exported.size} bytes")
    typer.echo(f"onnxruntime's outputs {equal}")
    for reason in promise.reasons:
        typer.echo(f"- {reason}")


def _first(value: Any) -> Any:
    """The first sample alone: the batch is a dimension of the file, not its size."""
    return value[:1] if isinstance(value, Tensor) and value.ndim else value


def _noise(text: str) -> Any:
    if text in ("none", "runtime"):
        return None if text == "none" else text
    if not text.isdigit():
        raise ExportError(f"--noise '{text}' is unknown; give none, runtime, or a chip's seed")
    return int(text)
