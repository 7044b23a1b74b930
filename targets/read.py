"""Read YAML into a tree whose every value knows its file and line.

Positions survive merging, so a complaint about an inherited value names the file it was written in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from analogize.errors import TargetError
from analogize.targets.dialect import Loader, dump_inline, parse_scalar

_DEEPEST = 20  # far beyond the schema; stops an alias that contains itself
_MOST_REPEATED = 10_000  # values that aliases repeat: what a file holds may grow no further
_LONGEST_VALUE = 80
_MOST_LISTED = 100


@dataclass(frozen=True)
class Node:
    """A YAML value: a mapping of Nodes, a list of Nodes or a scalar.

    Attributes:
        value: The mapping, list or scalar.
        file: The file it was written in, as shown to the user.
        line: The line of its key (of the item itself in a list), from 1.
    """

    value: Any
    file: str
    line: int

    def plain(self) -> Any:
        """The value as plain dictionaries, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, path: Iterable[str | int]) -> Node:
        """The node at ``path``, or the deepest one on the way to it."""
        node = self
        for step in path:
            inside: Any = node.value if isinstance(node.value, dict | list) else {}
            try:
                node = inside[step]
            except (KeyError, IndexError, TypeError):
                break
        return node


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a target file."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {key}{self.text}"


def as_error(problems: Iterable[Problem]) -> TargetError:
    """One error that lists every problem, each once, in the order of the lines of its file."""
    found = list(dict.fromkeys(problems))
    files = list(dict.fromkeys(problem.file for problem in found))
    found.sort(key=lambda problem: (files.index(problem.file), problem.line))
    if len(found) == 1:
        return TargetError(str(found[0]))
    listed = "\n".join(f"  {problem}" for problem in found[:_MOST_LISTED])
    more = "" if len(found) <= _MOST_LISTED else "\n  and so on"
    return TargetError(f"{len(found)} problems in the target file {files[0]}:\n{listed}{more}")


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is shown: ``("noise", 0, "eta")`` is ``noise[0].eta``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{_cut(step)}" for step in path)
    return text.removeprefix(".")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def shown(value: object) -> str:
    """A value as a message shows it: cut off where it is long."""
    try:
        text = repr(value) if isinstance(value, str) else dump_inline(value)
    except ValueError:  # Python writes no decimals of a number with thousands of digits
        return "a number of thousands of digits"
    return _cut(text)


def read_yaml(text: str, file: str) -> tuple[Node, list[Problem]]:
    """Parse one YAML document that is a mapping; ``file`` is the name to show.

    Returns:
        The tree, and the duplicate keys found in it (the first of each is kept).

    Raises:
        TargetError: for text that is empty, not YAML, or not a mapping.
    """
    try:
        root = yaml.compose(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as cause:
        raise as_error([_syntax_problem(cause, text, file)]) from cause
    if root is None:
        raise as_error(
            [Problem(file, 1, "", "the file is empty; a target starts with 'schema: 1'")]
        )
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise as_error(
            [Problem(file, line, "", "a target is a mapping of keys such as 'schema: 1'")]
        )
    builder = _Builder(file)
    return builder.build(root, (), 1), builder.problems


def _syntax_problem(cause: Exception, text: str, file: str) -> Problem:
    if isinstance(cause, yaml.MarkedYAMLError):
        mark = cause.problem_mark or cause.context_mark
        reason = ", ".join(part for part in (cause.context, cause.problem) if part)
        return Problem(file, mark.line + 1 if mark else 1, "", f"not valid YAML: {reason}")
    if isinstance(cause, yaml.reader.ReaderError):
        line = text.count("\n", 0, cause.position) + 1
        shown = f"not valid YAML: the character {chr(cause.character)!r} is not allowed"
        return Problem(file, line, "", shown)
    return Problem(file, 1, "", "not a target: nested too deeply")


class _Builder:
    """Turns PyYAML's node graph into Nodes, with the duplicate keys on the side."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.seen: set[int] = set()
        self.repeated = 0
        self.top_line = 1

    def build(self, node: yaml.Node, path: tuple[str | int, ...], line: int) -> Node:
        self._count(node, path)
        if len(path) > _DEEPEST:
            raise self._error(node, path[:3], "nested too deeply, or an alias that contains itself")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, path), self.file, line)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.build(item, (*path, index), item.start_mark.line + 1)
                for index, item in enumerate(node.value)
            ]
            return Node(items, self.file, line)
        try:
            return Node(parse_scalar(node.tag, node.value), self.file, line)
        except ValueError as cause:
            raise self._error(node, path, f"not valid YAML: {cause}") from cause

    def _count(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        """Refuse aliases of aliases that would multiply a few bytes into gigabytes."""
        self.repeated += id(node) in self.seen
        self.seen.add(id(node))
        if self.repeated > _MOST_REPEATED:
            text = f"aliases repeat more than {_MOST_REPEATED} values; write out what is meant"
            # An alias's node bears the mark of its anchor, so the line is that of the first key.
            raise as_error([Problem(self.file, self.top_line, dotted(path[:1]), text)])

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, path, "a key must be text")
            key, line = key_node.value, key_node.start_mark.line + 1
            here = (*path, key)
            self.top_line = self.top_line if path else line
            if key in mapping:
                first = f"already given on line {mapping[key].line}; keep one of the two"
                self.problems.append(
                    Problem(self.file, line, dotted(here), f"duplicate key, {first}")
                )
                continue
            mapping[key] = self.build(value_node, here, line)
        return mapping

    def _error(self, node: yaml.Node, path: Iterable[str | int], text: str) -> TargetError:
        line = node.start_mark.line + 1
        return as_error([*self.problems, Problem(self.file, line, dotted(path), text)])
