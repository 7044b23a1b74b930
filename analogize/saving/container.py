"""The file of a saved model: safetensors, and a manifest in its metadata. No pickle."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from analogize.errors import SavingError
from analogize.files.writing import writing
from analogize.saving.manifest import FORMAT, Manifest

_KEY = "analogize"

# In a folder of Hugging Face's, what makes its weights an analog model.
DESCRIPTION = "analog.safetensors"

# Where a checkpoint of Lightning's describes its analog parts.
CHECKPOINT_KEY = "analogize_model"


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], manifest: Manifest) -> Path:
    """Write a file that appears whole or not at all.

    Raises:
        SavingError: it cannot be written.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise SavingError(f"{file}: folder '{file.parent}' does not exist; create it first")
    if file.is_dir():
        raise SavingError(f"{file}: is a folder; give the name of a file")
    with writing(file, "the model", SavingError, (SafetensorError,)) as draft:
        save_file(dict(tensors), draft, {_KEY: manifest.model_dump_json()})
    return file


def read(path: str | os.PathLike[str]) -> tuple[Manifest, dict[str, Tensor]]:
    """The manifest and every tensor, on the CPU.

    Raises:
        SavingError: the file cannot be read, is damaged, foreign, or of a newer format.
    """
    if _is_checkpoint(path):
        return _checkpoint(path)
    manifest = read_manifest(path)
    with _opened(path) as file:
        return manifest, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a file says of itself, without its tensors.

    Raises:
        SavingError: as ``read``.
    """
    if _is_checkpoint(path):
        return _checkpoint(path)[0]
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise SavingError(
            f"{path}: a safetensors file that analogize.save() did not write: its metadata have no "
            f"key '{_KEY}'. For plain weights, load them into the digital model and rewrite it"
        )
    return _parsed(path, text)


def _parsed(path: str | os.PathLike[str], text: str) -> Manifest:
    try:
        version = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError) as cause:
        raise SavingError(f"{path}: its manifest is damaged: {cause}") from cause
    if version != FORMAT:
        raise SavingError(
            f"{path}: written in format {version!r}, and this analogize reads {FORMAT}; upgrade "
            "analogize, or save the model again with the version that wrote it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as cause:
        first = cause.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SavingError(f"{path}: its manifest is damaged: {where}: {first['msg']}") from cause


def is_described(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a checkpoint of Lightning's that describes its analog parts."""
    if not _is_checkpoint(path):
        return False
    try:
        # Not its tensors' values, which may be large.
        held = torch.load(path, map_location="meta", weights_only=True)
    except Exception:
        return False
    return isinstance(held, dict) and CHECKPOINT_KEY in held


def _is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether it is a file of torch.save's, which is a ZIP archive."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _checkpoint(path: str | os.PathLike[str]) -> tuple[Manifest, dict[str, Tensor]]:
    """A checkpoint of Lightning's that describes its analog parts."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:
        raise SavingError(f"{path}: a damaged or foreign checkpoint: {cause}") from cause
    described = held.get(CHECKPOINT_KEY) if isinstance(held, dict) else None
    if not isinstance(described, dict) or not isinstance(held.get("state_dict"), dict):
        raise SavingError(
            f"{path}: a checkpoint that does not describe its analog parts; train with distill(), "
            "or with the callback analogize.saving.lightning.DescribeAnalog"
        )
    prefix = described.get("prefix", "")
    state = held["state_dict"]
    tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    manifest = _parsed(path, described.get("manifest", ""))
    return manifest, described.get("tensors", {}) | tensors


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        opened = safe_open(os.fspath(path), framework="pt")
    except FileNotFoundError as cause:
        raise SavingError(f"{path}: there is no such file") from cause
    except (OSError, SafetensorError) as cause:
        raise SavingError(
            f"{path}: no file that analogize.save() wrote, or a damaged one: {cause}"
        ) from cause
    with opened as file:
        yield file


def flatten(value: Any, tensors: dict[str, Tensor], prefix: str) -> Any:
    """``value`` as JSON, its tensors moved into ``tensors`` under names that begin with ``prefix``.

    Raises:
        TypeError: it holds something that is neither.
    """
    if isinstance(value, Tensor):
        name = f"{prefix}{sum(key.startswith(prefix) for key in tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        kind = type(value).__name__
        return {kind: [flatten(v, tensors, prefix) for v in value]}
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"mapping": {k: flatten(v, tensors, prefix) for k, v in value.items()}}
    raise TypeError(f"a {type(value).__name__} has no place in the file")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What ``flatten`` took apart.

    Raises:
        KeyError: a tensor is missing; TypeError: it is no such JSON.
    """
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "value":
        return held
    if kind == "mapping":
        return {k: unflatten(v, tensors) for k, v in held.items()}
    parts = [unflatten(v, tensors) for v in held]
    return tuple(parts) if kind == "tuple" else parts


def whole_numbers(values: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares its memory with nothing."""
    return values.detach().cpu().clone(memory_format=torch.contiguous_format)
