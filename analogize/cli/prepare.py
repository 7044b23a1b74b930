"""From what a command was given to a model and its data: factory, weights, images, rewriting."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analogize.api import analogize
from analogize.crossbar.calibrate import calibrate
from analogize.crossbar.ops import operators
from analogize.demo.data import ImageTensors, TensorBatches, load_dataset
from analogize.errors import EvaluationError
from analogize.targets.spec import Target


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


def read_weights(path: Path | None) -> dict[str, Tensor]:
    """Read a ``state_dict``, or the one under ``"state_dict"`` of a checkpoint, onto the CPU.

    Only tensors and plain containers are unpickled (``weights_only=True``). Without a path there
    is nothing to load.

    Raises:
        EvaluationError: the file cannot be read or holds something else.
    """
    if path is None:
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
    example: Tensor,
    calibration: Callable[[], Iterable[Any]],
) -> nn.Module:
    """Load weights, rewrite in place, and calibrate what has no range yet.

    Weights come before the rewriting, which fixes ranges by them; a rewritten model's own
    ``state_dict`` brings its ranges along, and is loaded once more afterwards.

    Args:
        model: the digital model; it becomes the rewritten one.
        state: the weights, or nothing for the model's own.
        target: a built-in name, a file, or a target.
        example: one batch of inputs.
        calibration: makes the batches to calibrate on; called only where ranges are missing.

    Raises:
        EvaluationError: the weights do not fit the model.
        AnalogizeError: the model cannot be rewritten for the target.
    """
    plain = {key: value for key, value in state.items() if key in model.state_dict()}
    if state:
        _load(model, plain)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    analog = analogize(model.eval(), target, example_inputs=example.to(device), inplace=True)
    if len(plain) < len(state):
        _load(analog, state)
    if not all(op.is_calibrated for op in operators(analog)):
        calibrate(analog, calibration())
    return analog


def first_inputs(images: ImageTensors) -> Tensor:
    """A batch of two to rewrite by."""
    inputs: Tensor = next(iter(images.take(2).batches(2)))[0]
    return inputs


def training_batches(
    dataset: str, data: Path | None, batches: int, size: int, **options: Any
) -> TensorBatches:
    """The first ``batches`` of ``size`` training images, to calibrate on.

    Raises:
        EvaluationError: not even one batch, or images that cannot be read.
    """
    if batches < 1:
        raise EvaluationError(
            f"--calibration-batches is {batches}; this target's converters need at least 1"
        )
    limit = batches * size
    return load_dataset(dataset, data, train=True, limit=limit, **options).batches(size)


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


def _parse_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise EvaluationError(f"--model-arg '{text}' must read key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
