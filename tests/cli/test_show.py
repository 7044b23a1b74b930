"""``analogize show``: a saved model's file in words, or as JSON; nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from analogize import analogize, program, save
from analogize.cli import app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    analog = analogize(model, "pcm_8bit", calibration=[torch.randn(8, 3)], digital=["2"]).eval()
    program(analog, 1)
    return save(analog, tmp_path / "net.safetensors", chip=True)


def test_a_file_is_told_in_words(file: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(file)])

    assert done.exit_code == 0, done.output
    for text in (
        "Sequential, format 1",
        "chip of 1 arrays",
        "target pcm_8bit",
        "4x3",
        "digital: 2",
    ):
        assert text in done.output
    assert max(map(len, done.output.splitlines())) <= 120


def test_json_is_the_manifest(file: Path) -> None:
    done = CliRunner().invoke(app, ["show", str(file), "--json"])

    manifest = json.loads(done.output)
    assert [region["name"] for region in manifest["parts"][0]["regions"]] == ["0"]


def test_another_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("junk")

    done = CliRunner().invoke(app, ["show", str(tmp_path / "x")])

    assert done.exit_code == 1
    assert "no file that analogize.save() wrote" in done.output
