"""``analogize demo`` with tiny settings: every file it names, and the same again from one seed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from analogize import Evaluation
from analogize.cli import app
from analogize.demo.demo import CONTROL, ETAS, NOISY, UNTOUCHED
from analogize.models import DigitsNet


def run_tiny(folder: Path, *more: str) -> str:
    arguments = ["demo", "--out", str(folder), "--epochs", "1", "--instances", "2", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    before = torch.get_rng_state(), torch.get_num_threads()
    output = run_tiny(folder)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    return folder, output


def test_it_prints_the_summary_the_table_and_the_folder(demo: tuple[Path, str]) -> None:
    folder, output = demo

    assert "converted 100.00% of multiply-accumulates" in output
    assert (folder / "table.txt").read_text() in output
    assert str(folder) in output


def test_the_table_has_every_model_at_every_level(demo: tuple[Path, str]) -> None:
    with (demo[0] / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert {row["model"] for row in rows} == {UNTOUCHED, CONTROL, NOISY}
    levels = sorted({*ETAS, 0.017})  # with pcm_4bit's own
    assert [float(row["eta"]) for row in rows] == levels * 3
    assert all(0 <= float(row["mean"]) <= 1 for row in rows)


def test_json_is_all_that_it_prints(demo: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ["demo", "--out", str(tmp_path), "--epochs", "1", "--instances", "2", "--json"]
    result = CliRunner().invoke(app, arguments)
    rows = json.loads(result.stdout)
    with (demo[0] / "table.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [row["model"] for row in expected]
    assert [row["mean"] for row in rows] == [float(row["mean"]) for row in expected]


def test_every_curve_and_the_plot_can_be_read_back(demo: tuple[Path, str]) -> None:
    files = sorted(demo[0].glob("*.json"))

    curves = [Evaluation.load(file) for file in files]
    assert len(curves) == 3
    assert all(curve.complete and curve.samples == 355 for curve in curves)
    assert len({curve.seeds for curve in curves}) == 1  # the same chips for each model
    assert (demo[0] / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_digital_network_was_not_touched_by_the_fine_tuning(demo: tuple[Path, str]) -> None:
    digital = torch.load(demo[0] / "digital.pt", weights_only=True)
    tuned = torch.load(demo[0] / "fine-tuned.pt", weights_only=True)

    DigitsNet().load_state_dict(digital)
    assert digital.keys() <= tuned.keys()
    assert not torch.equal(digital["conv1.weight"], tuned["conv1.weight"])


def test_the_same_seed_gives_the_same_table(demo: tuple[Path, str], tmp_path: Path) -> None:
    run_tiny(tmp_path / "again")
    run_tiny(tmp_path / "other", "--seed", "1")

    first = (demo[0] / "table.csv").read_text()
    assert (tmp_path / "again" / "table.csv").read_text() == first
    assert (tmp_path / "other" / "table.csv").read_text() != first
