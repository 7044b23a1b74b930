"""A file may come from anyone: nothing of it runs without leave, and what is wrong has a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from analogize.errors import ExportError
from analogize.onnx.manifest import Manifest
from analogize.targets.functions import Allowed, is_foreign, refusal
from analogize.targets.noise import CustomNoise


@contextmanager
def reading(source: str, what: str) -> Iterator[None]:
    """Turn whatever inconsistent numbers raise in NumPy, torch or pydantic into one kind of error.

    Args:
        source: the file.
        what: what of it is being read, such as ``region 'conv1'``.

    Raises:
        ExportError: anything went wrong; its cause is what was raised.
    """
    try:
        yield
    except ExportError as error:
        if str(error).startswith(source):
            raise
        raise ExportError(f"{source}: {what}: {error}") from error
    except Exception as cause:
        reason = str(cause).strip().split("\n")[0]
        raise ExportError(
            f"{source}: {what} cannot be read ({type(cause).__name__}: {reason}); the file is "
            "damaged, or a tool has changed it: export the model again"
        ) from cause


def require_leave(manifest: Manifest, source: str, allow: Allowed) -> None:
    """Refuse Python functions that the caller does not allow.

    Raises:
        ExportError: a region's noise is such a function.
    """
    for entry in manifest.regions:
        for model in entry.noise.models:
            if is_foreign(model, allow):
                assert isinstance(model, CustomNoise)
                raise ExportError(
                    f"{source}: region '{entry.id}': {refusal(model.function, 'load_onnx()')}"
                )
