"""``analogize export``: a model as annotated ONNX, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from analogize.api import analogize
from analogize.calibrate import calibrate
from analogize.cli.evaluate import (
    CalibrationBatches,
    ImageSize,
    Model,
    ModelArguments,
    Name,
    Root,
    Target,
    Weights,
    build_model,
    read_weights,
)
from analogize.data import load_dataset
from analogize.errors import ExportError
from analogize.ops import operators

File = Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to write.")]
AsForm = Annotated[str, typer.Option("--form", help="flat or functions.")]
Noise = Annotated[
    str, typer.Option(help="none, runtime (fresh at every run), or the seed of a chip.")
]
Store = Annotated[str, typer.Option(help="Stored weights: auto (INT4 or UINT8), int8 or float.")]
Arithmetic = Annotated[str, typer.Option(help="float or integer (both exact), or qdq (fastest).")]
Static = Annotated[bool, typer.Option("--static-batch", help="Fix the batch size at 1.")]
Opset = Annotated[int, typer.Option(help="ONNX opset, 21 to 23.")]


def export_command(
    model: Model,
    file: File,
    dataset: Name,
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
    """Rewrite a model for a target, calibrate it on training images, and write annotated ONNX."""
    # Imported here, so that other commands do not wait for onnx.
    from analogize.export import export_onnx

    network = build_model(model, model_arg or []).eval()
    state = {} if weights is None else read_weights(weights)
    options: dict[str, Any] = {"image_size": image_size}
    limit = 64 * max(calibration_batches, 1)
    images = load_dataset(dataset, data, train=True, limit=limit, **options)
    sample = next(iter(images.take(1).batches(1)))[0]
    analog = _rewrite(network, state, target, sample)
    if not all(op.is_calibrated for op in operators(analog)):
        calibrate(analog, images.batches(64))
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


def _rewrite(model: nn.Module, state: dict[str, Any], target: str, sample: Any) -> nn.Module:
    """Load weights before the rewriting, which fixes ranges; ranges of their own afterwards."""
    names = model.state_dict().keys()
    plain = {key: value for key, value in state.items() if key in names}
    try:
        if state:
            model.load_state_dict(plain)
        analog = analogize(model, target, example_inputs=sample, inplace=True)
        if len(plain) < len(state):
            analog.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(f"the weights do not fit the model: {error}") from error
    return analog


def _noise(text: str) -> Any:
    if text in ("none", "runtime"):
        return None if text == "none" else text
    if not text.isdigit():
        raise ExportError(f"--noise '{text}' is unknown; give none, runtime, or a chip's seed")
    return int(text)
