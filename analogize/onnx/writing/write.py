"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from analogize.errors import ExportError
from analogize.files.drafts import drafting
from analogize.files.writing import writing

# protobuf refuses messages of 2 GiB; leave room for everything that is not a weight.
EXTERNAL_ABOVE = 2**31 - 2**27


def write(model: ir.Model, path: str | os.PathLike[str], external_above: int) -> tuple[Path, ...]:
    """Write ``model`` to ``path``, weights beside it where they exceed ``external_above`` bytes.

    Everything is written under temporary names in the same folder and then renamed, the weights
    before the model, so that no half-written model is ever found under ``path``. What a killed
    export left there is removed.

    Returns:
        The files written: the model, and ``<name>.data`` if weights are external.

    Raises:
        ExportError: the file cannot be written.
    """
    path = Path(path)
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value]
    is_external = sum(t.nbytes for t in tensors) > external_above
    require_place(path)
    if not is_external:
        with writing(path, "the model", ExportError) as draft:
            ir.save(model, draft)
        return (path,)
    data = f"{path.name}.data"
    try:
        with drafting(path) as folder:
            ir.save(model, folder / path.name, external_data=data, size_threshold_bytes=1024)
            os.replace(folder / data, path.parent / data)
            os.replace(folder / path.name, path)
    except OSError as error:
        raise _refusal(path, error) from error
    return path, path.parent / data


def require_place(path: Path) -> None:
    """Refuse what can be seen to be no place for a file, before any work is done.

    Raises:
        ExportError: no folder, a folder instead of a file, or a name that the system refuses.
    """
    try:
        if not path.parent.is_dir():
            raise ExportError(f"{path}: folder '{path.parent}' does not exist; create it first")
        if path.is_dir():
            raise ExportError(f"{path}: is a folder; give the name of a file, such as model.onnx")
        if path.exists() and not path.is_file():
            raise ExportError(f"{path}: is no file; give the name of one, such as model.onnx")
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"cannot write the model to {path}: {error.strerror or error}; choose a place where you "
        "may write and that has room"
    )
