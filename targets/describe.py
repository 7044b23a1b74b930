"""Describe the schema: to editors as JSON schema, to people in the words of error messages."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

from analogize.targets.spec import Target

Schema = dict[str, Any]

_EXTENDS: Schema = {
    "type": "string",
    "minLength": 1,
    "title": "Extends",
    "description": "Target to inherit from: a built-in name, or the path of a YAML file relative "
    "to this one. Mappings are merged; lists, and ranges of another kind, replace the inherited.",
}
# What a file that extends another may inherit in part; list items are always written whole.
_INHERITED_IN_PART = (
    "StdRange",
    "PercentileRange",
    "AbsMaxRange",
    "MinMaxRange",
    "LeastSquaresRange",
    "LearnedRange",
    "FixedRange",
    "FullRange",
    "BoundRange",
    "VectorRange",
    "Array",
    "Conductance",
    "Cost",
)


@cache
def file_schema() -> Schema:
    """The JSON schema of a complete target file, with ``extends`` among its keys."""
    schema = Target.model_json_schema(by_alias=True)
    schema["description"] = "A target: an analog accelerator as analogize sees it."
    schema["properties"] = {
        "schema": schema["properties"].pop("schema"),
        "extends": _EXTENDS,
        **schema["properties"],
    }
    schema["required"] = ["schema"]  # the name is the file's by default
    return schema


def json_schema() -> Schema:
    """The JSON schema (2020-12) of target files, for editors to complete and check them.

    A file with ``extends`` may leave out what it inherits, so it has looser requirements than a
    file that stands alone.
    """
    whole = copy.deepcopy(file_schema())
    definitions = whole.pop("$defs")
    partial = _loosen(copy.deepcopy(whole))
    for name, definition in list(definitions.items()):
        definitions[f"Inherited{name}"] = _loosen(copy.deepcopy(definition))
        if name in _INHERITED_IN_PART:
            definitions[f"Inherited{name}"].pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "analogize target",
        "description": whole["description"],
        "type": "object",
        "if": {"required": ["extends"]},
        "then": partial,
        "else": whole,
        "$defs": definitions,
    }


def _loosen(schema: Any) -> Any:
    """Point references at the Inherited definitions; a part of a range may fit several kinds."""
    if isinstance(schema, list):
        return [_loosen(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    loose = {}
    for key, value in schema.items():
        if key == "$ref":
            loose[key] = value.replace("#/$defs/", "#/$defs/Inherited")
        elif key == "oneOf":
            loose["anyOf"] = _loosen(value)
        elif key != "discriminator":
            loose[key] = _loosen(value)
    return loose


def options(schema: Schema) -> list[Schema]:
    """What a value may be: references and anyOf resolved, a discriminated union kept as one."""
    if "$ref" in schema:
        return options(file_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return [option for choice in schema["anyOf"] for option in options(choice)]
    return [schema]


def follow(location: tuple[str | int, ...]) -> tuple[list[str | int], Schema]:
    """Turn one of pydantic's locations into a path in the file and the schema of what is there.

    Pydantic inserts the tag of a discriminated union (``weights, range, std, multiple``), which
    is no step in the file. The schema is empty for a key that the schema does not know.
    """
    path: list[str | int] = []
    schema: Schema = file_schema()
    for step in location:
        choices = options(schema)
        unions = [choice["discriminator"] for choice in choices if "discriminator" in choice]
        if isinstance(step, int):
            schema = next((choice["items"] for choice in choices if "items" in choice), {})
        elif unions:
            schema = options({"$ref": unions[0]["mapping"][step]})[0]
            continue
        else:
            schema = keys_of(schema).get(step, {})
        path.append(step)
    return path, schema


def keys_of(schema: Schema) -> dict[str, Schema]:
    """The keys that a mapping of this schema may have, with their schemas."""
    return next((choice["properties"] for choice in options(schema) if "properties" in choice), {})


def known_keys(schema: Schema | None = None, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a target file, with list items as ``noise[]``."""
    for choice in options(file_schema() if schema is None else schema):
        if "oneOf" in choice:
            for kind in choice["oneOf"]:
                yield from known_keys(kind, prefix)
        if "items" in choice:
            yield from known_keys(choice["items"], f"{prefix}[]")
        for key, value in choice.get("properties", {}).items():
            name = f"{prefix}.{key}" if prefix else key
            yield name
            yield from known_keys(value, name)


def allowed(schema: Schema) -> str:
    """What is allowed, in words: 'a whole number from 1 to 16, or null'."""
    phrases = [_phrase(choice) for choice in options(schema)]
    return ", or ".join(phrases)


def _phrase(schema: Schema) -> str:
    if "discriminator" in schema:
        union = schema["discriminator"]
        return f"a mapping with {union['propertyName']}: {_list(list(union['mapping']))}"
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return _list(schema["enum"])
    if schema.get("type") == "array":
        return f"a list, each item {allowed(schema['items'])}"
    if schema.get("type") == "object":
        return f"a mapping with the keys {', '.join(schema.get('properties', {}))}"
    names = {"integer": "a whole number", "number": "a number", "string": "text"}
    return names.get(schema.get("type", ""), str(schema.get("type"))) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f" of at least {low:g}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g}"
    return " that is not empty" if schema.get("minLength") else ""


def _list(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
