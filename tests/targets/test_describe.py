"""The JSON schema agrees with the loader about files, and describes values in words."""

from pathlib import Path

import jsonschema
import pytest

from analogize.errors import TargetError
from analogize.targets import load_target, names
from analogize.targets.describe import allowed, follow, json_schema, known_keys
from analogize.targets.load import sources
from analogize.targets.read import read_yaml


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", names())
def test_it_accepts_the_built_in_files(
    name: str, validator: jsonschema.Draft202012Validator
) -> None:
    root, _ = read_yaml(sources(name)[0].text, name)

    validator.validate(root.plain())
    resolved, _ = read_yaml(load_target(name).to_yaml(), name)
    validator.validate(resolved.plain())


GOOD = [
    "weights: {range: {kind: std, multiple: 2}, bits: 4}",
    "weights: {range: null, bits: null}",
    "extends: pcm_4bit\narray: {rows: 512}",
    "extends: pcm_4bit\nweights: {range: {multiple: 3}}",
    "extends: pcm_4bit\ndac: {range: {high: 99}}",
    "weights: {range: {kind: absmax}}\n"
    "noise: [{model: gaussian, eta: 0.1}, {model: fixed_snr, ratio: 1}]",
]
BAD = [
    "weights: {bits: 17}",
    "weights: {range: {kind: std}}",
    "weights: {range: {kind: sdt, multiple: 2}}",
    "weights: {range: {multiple: 2}}",
    "array: {rows: 512}",
    "extends: 3",
    "extends: pcm_4bit\nweights: {bits: 17}",
    "extends: pcm_4bit\nweights: {range: {multipel: 3}}",
    "extends: pcm_4bit\nnoise: [{eta: 0.1}]",
    "extends: pcm_4bit\nnoise: [{model: gaussian}]",
    "noise: {model: gaussian, eta: 0.1}",
    "digital: {operators: [conv2]}",
    "schema_version: 1",
    "weigths: {}",
]


@pytest.mark.parametrize("text", GOOD)
def test_it_accepts_what_the_loader_accepts(
    text: str, tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"schema: 1\n{text}\n")

    load_target(file)
    validator.validate(read_yaml(file.read_text(), "mine.yaml")[0].plain())


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_the_loader_refuses(
    text: str, tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"schema: 1\n{text}\n")

    with pytest.raises(TargetError):
        load_target(file)
    assert not validator.is_valid(read_yaml(file.read_text(), "mine.yaml")[0].plain())


def test_the_schema_version_is_required(validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid({"name": "x"})
    assert not validator.is_valid({"name": "x", "extends": "ideal"})
    assert not validator.is_valid({"schema": 2})


def test_every_key_has_a_description() -> None:
    tags = {"kind", "model"}
    for definition in json_schema()["$defs"].values():
        for key, value in definition["properties"].items():
            assert "description" in value or key in tags, key


def test_follow_skips_the_tags_that_pydantic_inserts() -> None:
    path, schema = follow(("weights", "range", "std", "std"))
    assert (path, schema) == (["weights", "range", "std"], {})
    path, schema = follow(("noise", 3, "gaussian", "eta"))
    assert path == ["noise", 3, "eta"]
    assert allowed(schema) == "a number of at least 0"


def test_known_keys() -> None:
    keys = set(known_keys())

    assert {"schema", "extends", "weights.range.multiple", "noise[].eta", "array.rows"} <= keys
