"""Explain what is wrong with a target file: where, which key and value, what is allowed instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from analogize.targets.describe import allowed, follow, keys_of, known_keys
from analogize.targets.read import Node, Problem, dotted, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_INCOMPLETE = ("missing", "union_tag_not_found")
_MOST = 1000  # nobody reads more, and a hostile file may have any number
_LONGEST_WORD = 100  # looking for similar words takes the square of their length


def explain(error: ValidationError, root: Node, *, complete: bool = True) -> list[Problem]:
    """Turn pydantic's errors about ``root.plain()`` into problems of the files it was read from.

    Args:
        error: What ``Target.model_validate`` raised.
        root: The tree that was validated.
        complete: False if inherited values are lacking, so that missing keys prove nothing.
    """
    found = error.errors(include_url=False)[:_MOST]
    return [
        _explain(details, root)
        for details in found
        if complete or details["type"] not in _INCOMPLETE
    ]


def _explain(details: ErrorDetails, root: Node) -> Problem:
    path, schema = follow(details["loc"])
    context: dict[str, Any] = details.get("ctx", {})
    match details["type"]:
        case "inconsistent":
            path += [int(key) if key.isdigit() else key for key in context["key"].split(".")]
            text = f"{_show(root, path)} is not allowed: {context['reason']}"
        case "extra_forbidden":
            siblings = keys_of(follow(details["loc"][:-1])[1])
            text = _unknown_key(str(path[-1]), list(siblings))
        case "missing":
            text = f"missing; must be {allowed(schema)}"
        case "union_tag_not_found":
            tag = context["discriminator"].strip("'")
            near = get_close_matches(tag, root.find(path).value, n=1)
            path.append(tag)
            text = f"missing; must be given in {allowed(schema)}"
            text += f"; is '{near[0]}' meant to be '{tag}'?" if near else ""
        case "union_tag_invalid":
            path.append(context["discriminator"].strip("'"))
            tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            text = f"{_show(root, path)} is not allowed: must be one of {', '.join(tags)}"
            text += did_you_mean(context["tag"], tags)
        case _:
            text = f"{_show(root, path)} is not allowed: must be {allowed(schema)}"
            text += did_you_mean(root.find(path).value, schema.get("enum", []))
    node = root.find(path)
    return Problem(node.file, node.line, dotted(path), text)


def _show(root: Node, path: Iterable[str | int]) -> str:
    return shown(root.find(path).plain())


def _unknown_key(key: str, siblings: list[str]) -> str:
    # What an override may hold is the target's, so its own places would be named twice.
    places = [name for name in known_keys() if not name.startswith("overrides[].")]
    elsewhere = dict.fromkeys(name for name in places if name.rsplit(".", 1)[-1] == key)
    if elsewhere:
        hint = f"; did you mean {' or '.join(elsewhere)}?"
    else:
        hint = did_you_mean(key, siblings) or "."
    return f"unknown key{hint} Allowed here: {', '.join(siblings)}"


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """'; did you mean 'weights'?' with the nearest of ``choices``, or nothing if none is near."""
    if not isinstance(word, str) or len(word) > _LONGEST_WORD:
        return ""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[near[0]]}'?" if near else ""
