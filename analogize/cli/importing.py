"""What a command is given by name: ``package.module:name``, or ``file.py:name``."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from analogize.errors import EvaluationError


def imported(path: str, what: str) -> Any:
    """The object at ``package.module:name`` or ``file.py:name``.

    Modules of the current folder, and of a file's own folder, can be imported.

    Args:
        path: where it is.
        what: what it is to be, for errors: "model", "loader".

    Raises:
        EvaluationError: there is no such thing, or importing it fails.
    """
    where, _, name = path.rpartition(":")
    if not where or not name.isidentifier():
        raise EvaluationError(
            f"{what} '{path}' must read package.module:factory or file.py:factory"
        )
    try:
        module = _file(Path(where)) if where.endswith(".py") else _module(where)
        return getattr(module, name)
    except (ImportError, AttributeError, OSError, SyntaxError) as cause:
        raise EvaluationError(f"cannot import the {what} '{path}': {cause}") from cause


def called(path: str, what: str, keywords: dict[str, Any]) -> Any:
    """What the callable at ``path`` returns; a module's copy, and anything else as it is.

    Raises:
        EvaluationError: as ``imported``; or the call fails.
    """
    found = imported(path, what)
    if isinstance(found, nn.Module):
        return copy.deepcopy(found)  # it is rewritten in place, and the imported file keeps its own
    if not callable(found):
        return found
    try:
        return found(**keywords)
    except Exception as cause:
        told = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        hint = "; pass its arguments with --model-arg key=value" if what == "model" else ""
        raise EvaluationError(
            f"{path}({told}) failed: {type(cause).__name__}: {cause}{hint}"
        ) from cause


def parse_argument(text: str) -> tuple[str, Any]:
    """``key=value`` with the value as a Python literal where it is one, else as text.

    Raises:
        EvaluationError: it does not read so.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise EvaluationError(f"--model-arg '{text}' must read key=value")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _module(name: str) -> ModuleType:
    _searched(os.getcwd())
    return importlib.import_module(name)


def _file(file: Path) -> ModuleType:
    path = file.resolve(strict=True)
    _searched(str(path.parent))
    # Under a name of its own, so that model.py does not hide an installed package "model"; the same
    # file given twice, for model and loader, is one module.
    name = f"_analogize_given_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _searched(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
