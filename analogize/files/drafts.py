"""Where a file is written before it is renamed to its own name; a killed writer's is swept."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".draft"


@contextlib.contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path``, on the same file system, gone at the end.

    A process that is killed cannot remove its own: the next writer of the same path does. A lock,
    which ends with the process that holds it, tells abandoned folders from those in use; where the
    system has none (Windows), they stay.

    Args:
        path: the file that is to appear whole or not at all.

    Raises:
        OSError: the folder cannot be made.
    """
    _sweep(path)
    folder, lock = _locked(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(path: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(_SUFFIX, f".{path.name}.", path.parent))
        lock = _open(folder)
        if lock is not None:
            return folder, lock


def _open(folder: Path) -> int | None:
    """A lock on a folder, or None where a sweeper has found it before it was locked."""
    if sys.platform == "win32":
        return os.open(os.devnull, os.O_RDONLY)
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    # A file system without locks keeps abandoned folders, and is written to all the same.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.exists():
        return lock
    os.close(lock)
    return None


def _sweep(path: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            is_draft = entry.name.startswith(f".{path.name}.") and entry.name.endswith(_SUFFIX)
            if is_draft and entry.is_dir(follow_symlinks=False):
                _remove_abandoned(entry.path)


def _remove_abandoned(folder: str) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
