"""``analogize targets``."""

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from analogize.cli.targets import app
from analogize.targets import Target, load_target, names
from analogize.targets.load import sources


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_list_has_a_row_for_every_built_in_target() -> None:
    result = invoke("list")

    assert result.exit_code == 0
    for name in names():
        assert name in result.output
    row = next(line for line in result.output.splitlines() if line.startswith("pcm_4bit"))
    assert row.split()[:7] == ["pcm_4bit", "PCM", "4", "8", "8", "eta", "0.017"]


@pytest.mark.parametrize("width", ["40", "80"])
def test_list_keeps_names_whole_on_a_narrow_terminal(width: str) -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": width})

    assert result.exit_code == 0
    for name in names():
        assert name in result.output


@pytest.mark.parametrize("name", names())
def test_show_yaml_reads_back_equal(name: str, tmp_path: Path) -> None:
    result = invoke("show", name, "--yaml")

    assert result.exit_code == 0
    file = tmp_path / "copy.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    assert load_target(file) == load_target(name)


def test_show_explains_the_target_and_where_its_figures_come_from() -> None:
    result = invoke("show", "pcm_8bit")

    assert result.exit_code == 0
    assert "±2 standard deviations of each layer; 8 bits, symmetric grid" in result.output
    assert "Gaussian, eta 0.017" in result.output
    assert "percentiles 0.1 to 99.9 of the calibration data" in result.output
    assert "tiles of 256 x 256" in result.output
    assert "Nature Communications 11:2473" in result.output
    # inherited from pcm_4bit.yaml, whose comments come along
    assert "# HERMES: 8-bit inputs" in result.output


@pytest.mark.parametrize("name", names())
def test_show_reads_well_in_a_pipe_of_80_columns(name: str) -> None:
    """No line of a file's comments is broken: every one keeps its '#'."""
    result = CliRunner().invoke(app, ["show", name], env={"COLUMNS": "80"})

    assert result.exit_code == 0
    for source in sources(name):
        comments = [line for line in source.text.splitlines() if line.startswith("#")]
        assert all(line in result.output for line in comments)


def test_show_has_formulas_and_energies() -> None:
    pcm, isaac = invoke("show", "pcm_joshi2020").output, invoke("show", "isaac").output

    assert "programming noise, sigma(G) = 0.26348 + 1.965 x - 1.1731 x^2 uS, x = G / 25" in pcm
    assert "cost          not known" in pcm
    assert "1.5625 pJ an ADC conversion, 0.390625 pJ a DAC conversion" in isaac


def test_show_a_file_with_everything_unusual(tmp_path: Path) -> None:
    target = Target.model_validate(
        {
            "name": "odd [red]",
            "weights": {"range": {"kind": "fixed", "min": -1, "max": 2}, "granularity": "channel"},
            "noise": [
                {"model": "gaussian", "eta": 0.1, "eta_std": 0.01},
                {"model": "fixed_snr", "ratio": 0.5},
            ],
            "dac": {"bits": 4, "range": {"kind": "fixed", "min": 0, "max": 6}},
            "digital": {"operators": ["linear"], "names": ["fc[0]"]},
        }
    )
    file = tmp_path / "odd.yaml"
    file.write_text(target.to_yaml())

    result = invoke("show", str(file))

    assert result.exit_code == 0
    for part in (
        "odd [red]",
        "[-1, 2] of each output channel; not quantized",
        "eta 0.1 ± 0.01",
        "sigma_N / sigma_W 0.5",
        "4 bits, affine grid over [0, 6]",
        "linear, layers named fc[0]",
        "unlimited",
    ):
        assert part in result.output


def test_show_an_unknown_target() -> None:
    result = invoke("show", "pcm_4bits")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "did you mean 'pcm_4bit'?" in result.stderr


def test_validate_looks_for_functions_where_it_is_allowed_to(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schema: 1\nnoise: [{model: custom, function: 'no.such.module:f'}]\n")

    unseen = invoke("validate", str(file))
    looked = invoke("validate", "--allow-functions", str(file))

    assert unseen.exit_code == 0
    assert "OK" in unseen.stdout
    assert "not looked at without --allow-functions: no.such.module:f" in unseen.stdout
    assert looked.exit_code == 1
    assert "tried to import the module 'no.such.module'" in looked.stderr


def test_validate_says_ok_or_what_is_wrong(tmp_path: Path) -> None:
    good, bad, missing = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "missing"))
    good.write_text("schema: 1\nextends: pcm_4bit\n")
    bad.write_text("schema: 1\nweights:\n  bits: 40\n")

    assert invoke("validate", str(good)).exit_code == 0
    result = invoke("validate", str(good), str(bad), str(missing))

    assert result.exit_code == 1
    assert result.stdout == f"{good}: OK, target 'good'\n"
    assert f"{bad}:3: weights.bits: 40 is not allowed" in result.stderr
    assert f"{missing}: cannot read" in result.stderr
    assert "Traceback" not in result.output


def test_schema_is_json_schema() -> None:
    result = invoke("schema")

    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"schema": 1, "extends": "ideal"}, schema)
