"""From what a command was given to a rewritten model: factory, weights, device, rewriting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
import typer
from torch import Tensor, nn

from analogize.api import analogize
from analogize.cli.importing import called, imported, parse_argument
from analogize.crossbar.calibrate import calibrate
from analogize.crossbar.ops import operators
from analogize.errors import EvaluationError
from analogize.saving.container import DESCRIPTION, is_described, read_manifest
from analogize.targets.spec import Target


def build_model(
    path: str, arguments: list[str], weights: Path | None = None, allow_functions: bool = False
) -> nn.Module:
    """The model that ``path`` names: a module, a factory of one, or an ONNX file.

    Args:
        path: ``package.module:name`` or ``file.py:name`` of a module or of what returns one, a
            file that ``export_onnx`` wrote, or a folder that an analog model of Hugging Face's was
            saved to.
        arguments: ``key=value`` for a factory. Values are read as Python literals where they are
            such, and as text otherwise.
        weights: what ``save`` wrote (``.safetensors``), or a checkpoint that describes its analog
            parts, which makes the model analog; weights of other files are for ``rewrite``.
        allow_functions: whether Python functions that a saved model's targets name may run.

    Raises:
        EvaluationError: there is no such model, or its factory fails or returns something else.
        SavingError: the saved model cannot be read, or is another.
        ExportError: the ONNX file cannot be read.
    """
    if path.endswith(".onnx"):
        # Imported here, so that other models do not wait for onnx.
        from analogize.onnx.reading.load import load_onnx

        return load_onnx(path)
    if (Path(path) / DESCRIPTION).is_file():
        from analogize.saving.huggingface import from_pretrained

        return from_pretrained(path, allow_functions=allow_functions)
    if _is_saved(file := Path(path)):
        raise EvaluationError(
            f"{file} holds a {read_manifest(file).model}, and not the code that makes one: give "
            f"that as MODEL (package.module:name or file.py:name), and the file as --weights {file}"
        )
    if _is_saved(weights):
        from analogize.saving.restore import load

        model = load(weights, _digital(path, arguments), allow_functions=allow_functions)
    else:
        model = _digital(path, arguments)
    return model


def load_saved(
    file: Path, path: str | None, arguments: list[str], device: torch.device, allow_functions: bool
) -> nn.Module:
    """The model that was saved to ``file``, made of the digital one at ``path``.

    Args:
        file: what ``save`` wrote, a checkpoint that describes its analog parts, or a folder that
            an analog model of Hugging Face's was saved to.
        path: as for ``build_model``; a folder's may be None.
        arguments: for a factory.
        device: where the result is to be.
        allow_functions: whether Python functions that its targets name may run.

    Raises:
        EvaluationError: there is no such model, or its factory fails or returns something else.
        SavingError: the file cannot be read, or the model is another.
    """
    from analogize.saving.huggingface import from_pretrained
    from analogize.saving.restore import load

    options: dict[str, Any] = {"device": device, "allow_functions": allow_functions}
    if file.is_dir():
        kind = None if path is None else imported(path, "model")
        return from_pretrained(file, kind, **options)
    if path is None:
        raise EvaluationError(
            f"{file} holds a {read_manifest(file).model}, and not the code that makes one: give "
            "that as --model package.module:name or file.py:name"
        )
    return load(file, _digital(path, arguments), **options)


def _digital(path: str, arguments: list[str]) -> nn.Module:
    model = called(path, "model", dict(map(parse_argument, arguments)))
    if not isinstance(model, nn.Module):
        raise EvaluationError(f"{path} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _is_saved(file: Path | None) -> TypeGuard[Path]:
    """Whether a file describes an analog model, and not only its weights."""
    return file is not None and (file.suffix == ".safetensors" or is_described(file))


def read_weights(path: Path | None) -> dict[str, Tensor]:
    """Read a ``state_dict``, or the one under ``"state_dict"`` of a checkpoint, onto the CPU.

    Only tensors and plain containers are unpickled (``weights_only=True``). Without a path there
    is nothing to load.

    Raises:
        EvaluationError: the file cannot be read or holds something else.
    """
    if path is None or _is_saved(path):
        return {}
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # a damaged pickle raises whatever its opcodes run into
        reason = str(cause).strip().split("\n")[0]
        name = type(cause).__name__
        raise EvaluationError(f"cannot read the weights {path}: {name}: {reason}") from cause
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise EvaluationError(
            f"{path} holds {type(loaded).__name__}, not a state_dict; save one with "
            "torch.save(model.state_dict(), path)"
        )
    return dict(loaded)


def rewrite(
    model: nn.Module,
    state: Mapping[str, Tensor],
    target: str | Target,
    example: Any,
    calibration: Callable[[], Iterable[Any]] | None,
    digital: Sequence[str] = (),
) -> nn.Module:
    """Load weights, rewrite in place, and calibrate what has no range yet.

    Weights come before the rewriting, which fixes ranges by them; a rewritten model's own
    ``state_dict`` brings its ranges along, and is loaded once more afterwards.

    Args:
        model: the digital model; it becomes the rewritten one.
        state: the weights, or nothing for the model's own.
        target: a built-in name, a file, or a target.
        example: inputs of one call; None for none.
        calibration: makes the batches to calibrate on; called only where ranges are missing. None
            leaves them missing.
        digital: names of what to keep digital besides the target's own choices.

    Raises:
        EvaluationError: the weights do not fit the model.
        AnalogizeError: the model cannot be rewritten for the target.
    """
    if operators(model):
        return _rewritten(model, state)
    plain = {key: value for key, value in state.items() if key in model.state_dict()}
    if state:
        _load(model, plain)
    analog = analogize(
        model.eval(), target, example_inputs=example, digital=tuple(digital), inplace=True
    )
    if len(plain) < len(state):
        _load(analog, state)
    if calibration is not None and not all(op.is_calibrated for op in operators(analog)):
        calibrate(analog, calibration())
    return analog


def _rewritten(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A model that is analog already keeps its own target."""
    if state:
        _load(model, state)
    typer.echo("the model is analog already: its own target is used", err=True)
    return model.eval()


def parse_device(text: str) -> torch.device:
    """The device of that name.

    Raises:
        EvaluationError: torch cannot use it.
    """
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:
        reason = str(cause).split("\n")[0]
        raise EvaluationError(f"--device '{text}' cannot be used: {reason}") from cause
    return device


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as cause:
        raise EvaluationError(f"the weights do not fit the model: {cause}") from cause
