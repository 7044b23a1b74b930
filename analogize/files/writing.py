"""Write a file or a folder: it appears whole or not at all, and an error names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analogize.errors import AnalogizeError
from analogize.files.drafts import drafting


@contextmanager
def writing(
    path: str | os.PathLike[str],
    what: str,
    error: type[AnalogizeError],
    also: tuple[type[Exception], ...] = (),
) -> Iterator[Path]:
    """Where to write what is to appear at ``path``; it is put there at the end of the block.

    Until then, and after any error, ``path`` is what it was before. Links are followed. Devices and
    pipes, such as ``/dev/stdout``, hold nothing that could be lost, and are written to themselves:
    what replaced one would take it from every other program.

    Args:
        path: the file, or an empty or new folder.
        what: what is written, for the message: "the report".
        error: the class of the error.
        also: what a library raises where the system refuses, beside ``OSError``.

    Raises:
        AnalogizeError: of the class ``error``: the system refuses to write.
    """
    try:
        file = Path(os.path.realpath(path))
        if file.exists() and not file.is_file() and not file.is_dir():
            yield file
            return
        with drafting(file) as folder:
            draft = folder / Path(path).name  # a link's own name may choose the format
            yield draft
            os.replace(draft, file)
    except Exception as cause:
        if not isinstance(cause, (OSError, *also)):
            raise
        reason = str(cause)
        if isinstance(cause, OSError):
            reason = (
                f"{cause.strerror or cause}; choose a place where you may write and that has room"
            )
        raise error(f"cannot write {what} to {os.fspath(path)}: {reason}") from cause
