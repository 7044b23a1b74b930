"""Scalars mean what YAML 1.2's core schema says, in both directions."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analogize.targets.dialect import FLOAT, INT, Dumper, dump, dump_inline, parse_scalar
from analogize.targets.read import read_yaml


def read(text: str) -> object:
    root, problems = read_yaml(f"value: {text}\n", "scalar.yaml")
    assert not problems
    return root.plain()["value"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),  # text in YAML 1.1
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("+1.", 1.0),
        ("12", 12),
        ("-7", -7),
        ("010", 10),  # 8 in YAML 1.1
        ("0o17", 15),
        ("0xff", 255),
        ("0b1", "0b1"),  # 1 in YAML 1.1
        ("1_000", "1_000"),  # 1000 in YAML 1.1
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("off", "off"),  # false in YAML 1.1
        ("yes", "yes"),
        ("True", True),
        ("false", False),
        ("2020-01-01", "2020-01-01"),  # a date in YAML 1.1
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        ("!!float 3", 3.0),
        ("!!str 3", "3"),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(text)

    assert found == value
    assert type(found) is type(value)


def test_nan() -> None:
    assert math.isnan(parse_scalar(FLOAT, ".nan"))  # type: ignore[arg-type]


def test_a_tag_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="abc"):
        parse_scalar(INT, "abc")
    with pytest.raises(ValueError, match="not a !colour"):
        parse_scalar("!colour", "red")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@given(scalars)
def test_what_is_written_is_read_back(value: object) -> None:
    root, _ = read_yaml(dump({"value": value}), "scalar.yaml")

    found = root.plain()["value"]
    assert found == value
    assert type(found) is type(value)


def test_inline_values_have_no_document_end() -> None:
    assert dump_inline(40) == "40"
    assert dump_inline({"kind": "fixed", "min": -1}) == "{kind: fixed, min: -1}"


def test_the_tables_of_pyyaml_itself_are_untouched() -> None:
    assert yaml.safe_load("off") is False
    assert Dumper.yaml_implicit_resolvers is not yaml.SafeDumper.yaml_implicit_resolvers
