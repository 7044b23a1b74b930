"""Find, read, inherit and check targets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from analogize.errors import TargetError
from analogize.targets.explain import did_you_mean, explain
from analogize.targets.functions import Allowed, foreign, refusal
from analogize.targets.read import Node, Problem, as_error, dotted, read_yaml, shown
from analogize.targets.spec import SCHEMA_VERSION, Target

_SUFFIXES = (".yaml", ".yml")
_NOT_INHERITED = ("extends", "name", "description")
_DISCRIMINATORS = ("kind", "model")
_MARK = re.compile(rf"""(?m)(?:^|[{{,])\s*["']?schema["']?\s*:\s*{SCHEMA_VERSION}\b""")
_LONGEST_PATH = 1024
_LARGEST = 2**18  # bytes; reading a file of that size takes some seconds and 300 MiB


@dataclass(frozen=True)
class Source:
    """A target file's text and where it came from.

    Attributes:
        label: The file as shown to the user.
        name: The target's name unless the file gives one: the file's name without suffix.
        text: The YAML.
        folder: Where relative ``extends`` paths start; None in a built-in target.
    """

    label: str
    name: str
    text: str
    folder: Path | None = None


@cache
def names() -> tuple[str, ...]:
    """The names of the built-in targets, in alphabetical order."""
    files = resources.files("analogize.targets").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".yaml")))


def load_target(
    target: str | os.PathLike[str] | Target, *, allow_functions: Allowed = False
) -> Target:
    """Load a target.

    Args:
        target: A built-in name (``names()`` lists them), the path of a YAML file, or a ``Target``,
            which is returned as it is. A built-in name wins over a file of that name: write
            ``./pcm_4bit`` for the file.
        allow_functions: Which Python functions (``package.module:function``) the file may name in
            noise models of its own: they run. False for none, True for all, or their names; entry
            points of installed packages and a ``Target`` made in Python need no leave.

    Raises:
        TargetError: for an unknown name, a file that cannot be read, or a file with mistakes, of
            which it lists every one with file, line, key, value and what is allowed.
    """
    if isinstance(target, Target):
        return target
    chain, problems, complete = _read_chain(target)
    root = chain[-1][1]
    for _, child in reversed(chain[:-1]):
        root = _merge(_heritage(root), child)
    values = {key: node for key, node in root.value.items() if key not in ("schema", "extends")}
    data = {"name": chain[0][0].name, **replace(root, value=values).plain()}
    try:
        # Both spellings of the version: a file that uses the Python one has an unknown key.
        loaded = Target.model_validate({**data, "schema": SCHEMA_VERSION})
    except ValidationError as cause:
        raise as_error([*problems, *explain(cause, root, complete=complete)]) from cause
    for path, function in foreign(loaded, allow_functions):
        node, text = root.find(path), refusal(function, "load_target()")
        problems.append(Problem(node.file, node.line, dotted(path), text))
    if problems:
        raise as_error(problems)
    return loaded


def sources(target: str | os.PathLike[str]) -> tuple[Source, ...]:
    """The files that a target is made of: its own, then what it extends, one after the other.

    Raises:
        TargetError: for a file that cannot be found or read.
    """
    chain, problems, _ = _read_chain(target)
    if problems:
        raise as_error(problems)
    return tuple(source for source, _ in chain)


def _read_chain(
    target: str | os.PathLike[str],
) -> tuple[list[tuple[Source, Node]], list[Problem], bool]:
    """Read a file and what it extends: the files, their problems, and whether all were found."""
    source = _find(target)
    root, found = read_yaml(source.text, source.label)
    chain: list[tuple[Source, Node]] = []
    problems: list[Problem] = []
    while True:
        problems += [*found, *_check_version(root)]
        chain.append((source, root))
        extends = root.value.get("extends")
        if extends is None:
            return chain, problems, True
        try:
            source = _find_parent(extends.plain(), chain)
            _require_target(source)
        except TargetError as cause:
            problems.append(Problem(extends.file, extends.line, "extends", str(cause)))
            return chain, problems, False
        root, found = read_yaml(source.text, source.label)


def _require_target(parent: Source) -> None:
    """Refuse what is no target without a word of what it holds: a stranger's file may name any."""
    if not _MARK.search(parent.text):
        raise TargetError(
            f"{parent.label} is no target file: it lacks 'schema: {SCHEMA_VERSION}' (what it holds "
            "is not shown)"
        )


def _find(target: object) -> Source:
    if not isinstance(target, (str, os.PathLike)):
        kind = type(target).__name__
        raise TargetError(f"a target is a name, the path of a YAML file or a Target, not a {kind}")
    if isinstance(target, str) and target in names():
        file = resources.files("analogize.targets") / f"{target}.yaml"
        return Source(str(file), target, file.read_text(encoding="utf-8"))
    is_path = not isinstance(target, str) or target.endswith(_SUFFIXES) or os.path.isfile(target)
    if not is_path:
        raise TargetError(
            f"unknown target '{target}'{did_you_mean(target, names()) or '.'} Built in: "
            f"{', '.join(names())}. For a file of your own, give a path that ends in .yaml."
        )
    return _read_file(Path(target))


def _read_file(path: Path) -> Source:
    try:
        # Not path.stat(): a device or a pipe has no size, and may never end.
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 10} KiB, as no target is")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise TargetError(f"{path}: not a target file: not UTF-8 text ({cause})") from cause
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise TargetError(
            f"{path}: cannot read the target file: {reason}{did_you_mean(path.stem, names())}"
        ) from cause
    return Source(str(path), path.stem, text, path.parent)


def _find_parent(extends: object, chain: list[tuple[Source, Node]]) -> Source:
    child = chain[-1][0]
    if not isinstance(extends, str) or len(extends) > _LONGEST_PATH:
        raise TargetError(
            f"{shown(extends)} is not allowed: must be the name of a built-in target or a path"
        )
    if extends in names() or child.folder is None:
        parent = _find(extends)
    else:
        path = child.folder / extends
        parent = _find(path if os.path.isfile(path) or extends.endswith(_SUFFIXES) else extends)
    labels = [os.path.realpath(source.label) for source, _ in chain]
    if os.path.realpath(parent.label) in labels:
        cycle = " extends ".join([*(source.label for source, _ in chain), parent.label])
        raise TargetError(f"a target cannot extend itself: {cycle}")
    return parent


def _check_version(root: Node) -> list[Problem]:
    """Refuse a file of another schema at once: its other keys cannot be judged."""
    node = root.value.get("schema")
    wanted = f"add 'schema: {SCHEMA_VERSION}', the version that the file is written for"
    if node is None:
        return [Problem(root.file, root.line, "schema", f"missing; {wanted}")]
    if type(node.value) is int and node.value == SCHEMA_VERSION:
        return []
    text = (
        f"{shown(node.plain())} is not a schema version that this analogize reads: must be "
        f"{SCHEMA_VERSION}; upgrade analogize for a newer one, or rewrite the file"
    )
    raise as_error([Problem(node.file, node.line, "schema", text)])


def _heritage(root: Node) -> Node:
    kept = {key: node for key, node in root.value.items() if key not in _NOT_INHERITED}
    return replace(root, value=kept)


def _merge(base: Node, child: Node) -> Node:
    """Lay ``child`` over ``base``: mappings merge key by key, everything else is replaced."""
    if not isinstance(base.value, dict) or not isinstance(child.value, dict):
        return child
    for key in _DISCRIMINATORS:
        before, after = base.value.get(key), child.value.get(key)
        if before and after and before.value != after.value:
            return child
    merged = dict(base.value)
    for key, node in child.value.items():
        merged[key] = _merge(base.value[key], node) if key in base.value else node
    return replace(child, value=merged)
