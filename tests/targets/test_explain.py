"""A bad file gets one error: file, line, key, value, what is allowed, and what is near."""

from pathlib import Path

import pytest

from analogize.errors import TargetError
from analogize.targets import load_target
from analogize.targets.explain import did_you_mean

# Each: the file, then (line, dotted key, further parts of that line of the message).
BAD_FILES = {
    "unknown key": (
        "schema: 1\nweigths:\n  bits: 4\n",
        [
            (
                2,
                "weigths",
                ["unknown key", "did you mean 'weights'", "Allowed here: schema, extends"],
            )
        ],
    ),
    "unknown key in a part": (
        "schema: 1\ndac:\n  bit: 8\n",
        [(3, "dac.bit", ["unknown key", "'bits'", "Allowed here: bits, range, granularity, grid"])],
    ),
    "unknown key in one of several kinds": (
        "schema: 1\nweights:\n  range:\n    kind: std\n    multiple: 2\n    std: 3\n",
        [(6, "weights.range.std", ["unknown key", "Allowed here: kind, multiple"])],
    ),
    "key in the wrong place": (
        "schema: 1\neta: 0.1\n",
        [(2, "eta", ["unknown key", "did you mean noise[].eta?"])],
    ),
    "Python's name of a key": (
        "schema: 1\nschema_version: 1\n",
        [(2, "schema_version", ["unknown key", "'schema'"])],
    ),
    "misspelt key in another case": (
        "schema: 1\nDAC: {bits: 8}\n",
        [(2, "DAC", ["unknown key", "'dac'"])],
    ),
    "bits out of range": (
        "schema: 1\nweights:\n  bits: 40\n",
        [(3, "weights.bits", ["40 is not allowed", "a whole number from 1 to 16, or null"])],
    ),
    "text for a number": (
        "schema: 1\nadc:\n  bits: '8'\n",
        [(3, "adc.bits", ["'8' is not allowed", "a whole number from 1 to 16"])],
    ),
    "number for text": (
        "schema: 1\ntechnology: 3\n",
        [(2, "technology", ["3 is not allowed", "text that is not empty"])],
    ),
    "null for a mapping": (
        "schema: 1\nweights:\nname: x\n",
        [(2, "weights", ["null is not allowed", "a mapping with the keys range, bits"])],
    ),
    "mapping for a list": (
        "schema: 1\nnoise: {model: gaussian, eta: 1}\n",
        [(2, "noise", ["{model: gaussian, eta: 1} is not allowed", "a list, each item a mapping"])],
    ),
    "W_min above W_max": (
        "schema: 1\nweights:\n  range: {kind: fixed,\n    min: 1, max: -1}\n",
        [(4, "weights.range.min", ["1 is not allowed", "min (1) must be below max (-1)"])],
    ),
    "percentiles in the wrong order": (
        "schema: 1\ndac:\n  range:\n    kind: percentile\n    high: 0.05\n",
        [(5, "dac.range.high", ["0.05 is not allowed", "low (0.1) must be below high (0.05)"])],
    ),
    "percentile above 100": (
        "schema: 1\nadc:\n  range: {kind: percentile, high: 999}\n",
        [(3, "adc.range.high", ["999 is not allowed", "a number from 0 to 100"])],
    ),
    "no exact zero": (
        "schema: 1\ndac:\n  bits: 8\n  range: {kind: fixed, min: 1, max: 2}\n",
        [
            (
                4,
                "dac.range",
                ["{kind: fixed, min: 1, max: 2} is not allowed", "contain 0", "padding"],
            )
        ],
    ),
    "lopsided symmetric grid": (
        "schema: 1\nweights:\n  bits: 8\n  grid: symmetric\n"
        "  range: {kind: fixed, min: -1, max: 2}\n",
        [(5, "weights.range", ["negative of max", "grid: affine"])],
    ),
    "a grid without a range": (
        "schema: 1\nweights:\n  bits: 4\n",
        [(3, "weights.bits", ["4 is not allowed", "needs a range", "kind: absmax"])],
    ),
    "eta without a range": (
        "schema: 1\nnoise:\n  - {model: fixed_snr, ratio: 1}\n  - model: gaussian\n    eta: 0.1\n",
        [(5, "noise[1].eta", ["0.1 is not allowed", "W_max - W_min", "give weights.range"])],
    ),
    "one bit on a symmetric grid": (
        "schema: 1\nadc:\n  bits: 1\n  grid: symmetric\n",
        [(3, "adc.bits", ["1 is not allowed", "2 to 16 bits"])],
    ),
    "unknown kind": (
        "schema: 1\nweights:\n  range:\n    kind: percentiles\n",
        [
            (
                4,
                "weights.range.kind",
                [
                    "'percentiles' is not allowed",
                    "std, percentile, absmax, minmax, mse, fixed",
                    "did you mean 'percentile'?",
                ],
            )
        ],
    ),
    "a weight range for a converter": (
        "schema: 1\ndac:\n  range: {kind: absmax}\n",
        [(3, "dac.range.kind", ["'absmax' is not allowed", "percentile, minmax, std, mse"])],
    ),
    "missing kind": (
        "schema: 1\nnoise:\n  - modl: gaussian\n    eta: 0.1\n",
        [(3, "noise[0].model", ["missing", "gaussian", "is 'modl' meant to be 'model'?"])],
    ),
    "missing key": (
        "schema: 1\nweights:\n  range: {kind: std}\n",
        [(3, "weights.range.multiple", ["missing", "a number above 0"])],
    ),
    "negative noise": (
        "schema: 1\nnoise:\n  - {model: gaussian, eta: 0.1}\n  - model: gaussian\n    eta: -1e-1\n",
        [(5, "noise[1].eta", ["-0.1 is not allowed", "a number of at least 0"])],
    ),
    "infinite noise": (
        "schema: 1\nnoise:\n  - model: fixed_snr\n    ratio: .inf\n",
        [(4, "noise[0].ratio", [".inf is not allowed", "a number"])],
    ),
    "wrong choice": (
        "schema: 1\nweights:\n  granularity: chanel\n",
        [(3, "weights.granularity", ["'chanel'", "tensor or channel", "did you mean 'channel'?"])],
    ),
    "unknown operator": (
        "schema: 1\ndigital:\n  operators:\n    - linear\n    - conv2\n",
        [(5, "digital.operators[1]", ["'conv2' is not allowed", "did you mean 'conv2d'?"])],
    ),
    "duplicate key": (
        "schema: 1\nadc:\n  bits: 4\n  bits: 8\n",
        [(4, "adc.bits", ["duplicate key", "already given on line 3"])],
    ),
    "invalid syntax": (
        "schema: 1\nweights: {bits: 4\n",
        [(3, "not valid YAML", ["flow mapping"])],
    ),
    "another schema version": (
        "schema: 2\nweights:\n  bitz: 4\n",
        [(1, "schema", ["2 is not a schema version", "must be 1", "upgrade analogize"])],
    ),
    "schema version as text": (
        "schema: '1'\n",
        [(1, "schema", ["'1' is not a schema version", "must be 1"])],
    ),
    "schema version missing": (
        "adc: {bits: 4}\n",
        [(1, "schema", ["missing", "add 'schema: 1'"])],
    ),
    "empty file": ("", [(1, "the file is empty", ["'schema: 1'"])]),
    "unknown parent": (
        "schema: 1\nextends: pcm_4bits\n",
        [(2, "extends", ["unknown target 'pcm_4bits'", "did you mean 'pcm_4bit'?", "ideal"])],
    ),
    "parent of the wrong type": (
        "schema: 1\nextends: [ideal]\n",
        [(2, "extends", ["[ideal] is not allowed", "a built-in target or a path"])],
    ),
    "parent file missing": (
        "schema: 1\nextends: missing.yaml\n",
        [(2, "extends", ["missing.yaml: cannot read", "No such file"])],
    ),
    "itself as parent": (
        "schema: 1\nextends: bad.yaml\n",
        [(2, "extends", ["cannot extend itself", "bad.yaml extends"])],
    ),
    "several problems": (
        "schema: 1\n"
        "weights:\n  bits: 40\n  bits: 41\n  grid: symetric\n"
        "noise:\n  - model: gaussian\n    eta: -1\n"
        "arry: {rows: 1}\n",
        [
            (3, "weights.bits", ["40"]),
            (4, "weights.bits", ["duplicate key"]),
            (5, "weights.grid", ["'symmetric'"]),
            (8, "noise[0].eta", ["-1"]),
            (9, "arry", ["'array'"]),
        ],
    ),
    "problems beside an unknown parent": (
        # The range may be complete in the parent, so a missing 'multiple' is no problem of its own.
        "schema: 1\nextends: nobody\nweights:\n  range: {kind: std}\n  bits: 0\n",
        [(2, "extends", ["unknown target 'nobody'"]), (5, "weights.bits", ["0 is not allowed"])],
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(tmp_path: Path, text: str, expected: list[tuple[int, str, list[str]]]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)

    with pytest.raises(TargetError) as caught:
        load_target(file)

    lines = str(caught.value).splitlines()
    if len(expected) > 1:
        assert lines.pop(0) == f"{len(expected)} problems in the target file {file}:"
    assert len(lines) == len(expected)
    for line, (number, key, parts) in zip(lines, expected, strict=True):
        assert line.strip().startswith(f"{file}:{number}: {key}")
        for part in parts:
            assert part in line


def test_a_problem_in_an_inherited_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("schema: 1\nweights:\n  bits: 99\n")
    child = tmp_path / "child.yaml"
    child.write_text("schema: 1\nextends: base.yaml\nweights:\n  grid: symmetric\ndac: 3\n")

    with pytest.raises(TargetError) as caught:
        load_target(child)

    header, *lines = str(caught.value).splitlines()
    assert "2 problems" in header
    assert any(
        line.strip().startswith(f"{tmp_path / 'base.yaml'}:3: weights.bits: 99") for line in lines
    )
    assert any(line.strip().startswith(f"{child}:5: dac: 3") for line in lines)


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"schema: 1\nweights: {'x' * 1000}\n")

    with pytest.raises(TargetError) as caught:
        load_target(file)

    assert len(str(caught.value)) < 300 + len(str(file))


def test_did_you_mean() -> None:
    assert did_you_mean("Pcm4bit", ["ideal", "pcm_4bit"]) == "; did you mean 'pcm_4bit'?"
    assert did_you_mean("zzzz", ["ideal", "pcm_4bit"]) == ""
    assert did_you_mean(3, ["ideal"]) == ""
