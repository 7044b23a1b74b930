"""YAML 1.2's core schema for PyYAML, which speaks YAML 1.1.

YAML 1.1 reads ``1e-3`` as text, ``off`` as false and ``1:30`` as 90. Here a scalar is null, a
Boolean, a whole number or a number exactly where the core schema (YAML 1.2.2, section 10.3.2) says
so, and text otherwise; writing quotes by the same rules.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_PREFIX = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, STR = (_PREFIX + kind for kind in ("null", "bool", "int", "float", "str"))

# (tag, pattern, first characters that are worth trying the pattern for)
_CORE_SCHEMA = (
    (NULL, r"(?:null|Null|NULL|~|)", ["n", "N", "~", ""]),
    (BOOL, r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    (INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
)
_MOST_DIGITS = 1000


class Loader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema."""


class Dumper(yaml.SafeDumper):
    """Quotes text that the core schema would read as something else."""


def _speak_core_schema(speaker: type[Loader] | type[Dumper]) -> None:
    speaker.yaml_implicit_resolvers = {}  # its own table: the inherited one is YAML 1.1's
    for tag, pattern, first in _CORE_SCHEMA:
        speaker.add_implicit_resolver(tag, re.compile(rf"^{pattern}\Z"), first)


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Escape the Unicode line breaks, which PyYAML would write bare and read back as newlines."""
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar(STR, text, style=style)


_speak_core_schema(Loader)
_speak_core_schema(Dumper)
Dumper.add_representer(str, _represent_text)


def dump(data: Any) -> str:
    """Data as a block-style YAML document, keys in the order given."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def dump_inline(value: Any) -> str:
    """A value on one line, as it could stand behind a key."""
    text = yaml.dump(value, Dumper=Dumper, sort_keys=False, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def parse_scalar(tag: str, text: str) -> str | int | float | bool | None:
    """The value of a scalar that carries one of the core schema's tags.

    Raises:
        ValueError: for text that its tag does not allow (``!!int abc``), or for another tag.
    """
    if tag == STR:
        return text
    if tag == NULL:
        return None
    if tag == BOOL and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tag == INT:
        if len(text) > _MOST_DIGITS:  # beyond some thousands Python writes no decimals of it
            raise ValueError(f"a number of {len(text)} digits")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if tag == FLOAT:
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    raise ValueError(f"{text!r} is not a {tag.removeprefix(_PREFIX)}")
