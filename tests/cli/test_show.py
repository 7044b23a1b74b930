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
        "a programmed chip of 1 arrays (drawn by seed 1)",
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


def test_the_chip_is_told_with_seed_and_cycle(tmp_path: Path) -> None:
    analog = analogize(nn.Sequential(nn.Linear(3, 4)), "paper_resnet32").eval()
    program(analog, 7, cycle=2)
    file = save(analog, tmp_path / "net.safetensors", chip=True)

    done = CliRunner().invoke(app, ["show", str(file)])

    assert "chip of 1 arrays (drawn by seed 7, cycle 2)" in " ".join(done.output.split())


def test_a_saved_file_as_model_says_what_is_needed_besides(file: Path) -> None:
    done = CliRunner().invoke(app, ["summary", str(file)])

    assert done.exit_code == 1
    told = " ".join(done.output.split())
    assert "Sequential, and not the code that makes one" in told
    assert f"--weights {file}" in told


def test_a_folder_of_hugging_faces_is_a_model_and_shown(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=9, intermediate_size=32, **sizes)
    model = transformers.BertModel(config)
    ids = torch.randint(9, (2, 5))
    analogize(model, "pcm_8bit", calibration=[{"input_ids": ids}]).save_pretrained(tmp_path)  # type: ignore[operator]

    for command in ("show", "summary"):
        done = CliRunner().invoke(app, [command, str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert "pcm_8bit" in done.output
