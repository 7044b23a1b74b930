"""``analogize export`` and ``analogize inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import typer
from typer.testing import CliRunner, Result

from analogize.cli.export import export_command
from analogize.cli.inspect import inspect_command
from analogize.errors import ExportError

app = typer.Typer()
app.command("export")(export_command)
app.command("inspect")(inspect_command)

NET = "analogize.models:DigitsNet"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "digits.onnx"
    result = invoke("export", NET, str(path), "--dataset", "digits", "--target", "pcm_8bit")
    assert result.exit_code == 0, result.output
    assert "4 regions" in result.output
    assert "bit for bit" in result.output
    return path


def test_inspect_shows_every_region(file: Path) -> None:
    result = invoke("inspect", str(file))
    assert result.exit_code == 0, result.output
    for word in ("conv1", "conv2", "fc1", "fc2", "UINT8", "node metadata", "pcm_8bit"):
        assert word in result.output
    assert json.loads(invoke("inspect", str(file), "--json").output)["target"] == "pcm_8bit"
    assert json.loads(invoke("inspect", "--schema").output)["title"] == "Manifest"


def test_a_file_without_manifest_says_what_is_missing(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    result = invoke("inspect", str(tmp_path / "bare.onnx"))
    assert result.exit_code == 0, result.output
    assert "missing: manifest" in result.output


def test_errors_name_the_option(tmp_path: Path) -> None:
    result = invoke(
        "export", NET, str(tmp_path / "m.onnx"), "--dataset", "digits", "--noise", "loud"
    )
    assert isinstance(result.exception, ExportError)
    assert "--noise 'loud'" in str(result.exception)
    assert isinstance(invoke("inspect", str(tmp_path / "m.onnx")).exception, ExportError)
