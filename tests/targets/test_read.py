"""Positions: every value knows the file and line of its key."""

import pytest

from analogize.errors import TargetError
from analogize.targets.read import Problem, as_error, dotted, read_yaml

TEXT = """\
# a comment
schema: 1
noise:
  - model: gaussian
    eta: 0.1
  - {model: fixed_snr,
     ratio: 2}
dac: &converter
  bits: 8
adc: *converter
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("schema",), 2),
        (("noise",), 3),
        (("noise", 0), 4),
        (("noise", 0, "eta"), 5),
        (("noise", 1, "ratio"), 7),
        (("adc",), 10),
        (("adc", "bits"), 9),
        # the deepest node on the way
        (("noise", 0, "eta_std"), 4),
        (("noise", 7, "eta"), 3),
        (("schema", 0), 2),
        (("nothing",), 1),
    ],
)
def test_lines(path: tuple[str | int, ...], line: int) -> None:
    root, problems = read_yaml(TEXT, "a.yaml")

    assert problems == []
    assert root.find(path).line == line
    assert root.find(path).file == "a.yaml"


def test_plain_resolves_aliases() -> None:
    root, _ = read_yaml(TEXT, "a.yaml")

    assert root.plain()["adc"] == {"bits": 8}


def test_duplicate_keys_are_all_found_and_the_first_is_kept() -> None:
    root, problems = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "a.yaml")

    assert [(problem.key, problem.line) for problem in problems] == [("b.c", 2), ("a", 3)]
    assert root.plain() == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("\n- 1\n", 2, "a mapping of keys"),
        ("just text", 1, "a mapping of keys"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: 1\nb: \x01\n", 2, "'\\x01' is not allowed"),
        ("a: 1\n? [1, 2]\n: 3\n", 2, "a key must be text"),
        ("a: 1\nb: !!int x\n", 2, "b: not valid YAML"),
        ("a: 1\nb: !python/name:os.system x\n", 2, "not a !python"),
        ("a: 1\nb: *c\n", 2, "undefined alias"),
        ("a: 1\nb: &b {c: *b}\n", 2, "alias that contains itself"),
        ("a: " + 2000 * "[", 1, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(text: str, line: int, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_yaml(text, "a.yaml")

    assert str(caught.value).startswith(f"a.yaml:{line}: ")
    assert message in str(caught.value)


def test_dotted() -> None:
    assert dotted(("noise", 0, "eta")) == "noise[0].eta"
    assert dotted(()) == ""


def test_one_error_lists_each_problem_once_in_the_order_of_the_lines() -> None:
    late, early = Problem("a.yaml", 9, "x", "late"), Problem("a.yaml", 2, "", "early")
    inherited = Problem("b.yaml", 1, "y", "inherited")

    assert str(as_error([late])) == "a.yaml:9: x: late"
    assert str(as_error([late, inherited, early, late])).splitlines() == [
        "3 problems in the target file a.yaml:",
        "  a.yaml:2: early",
        "  a.yaml:9: x: late",
        "  b.yaml:1: y: inherited",
    ]
