"""A model and data of one's own, from the shell: files, loaders, machine-readable output."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from analogize import Evaluation, analogize, save
from analogize.cli import app
from analogize.cli.importing import imported

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.body, self.head = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


def batches(train):
    g = torch.Generator().manual_seed(int(train))
    return [(x, x[:, :3].argmax(1)) for x in torch.randn(3, 20, 6, generator=g)]


def stream():
    yield from batches(False)


ready = Net()
not_a_model = 3
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "net.py"
    path.write_text(NET)
    return str(path)


def invoke(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})


def test_summary_of_costs(net: str) -> None:
    result = invoke("summary", f"{net}:ready", "--input", "2,6", "--cost")
    assert "Cost of one inference" in result.stdout
    assert "MVMs" in result.stdout
    unknown = invoke("summary", f"{net}:ready", "--cost")
    assert "the work is unknown without --input" in unknown.stdout


def test_a_summary_needs_no_data(net: str) -> None:
    result = invoke("summary", f"{net}:Net")
    assert result.exit_code == 0, result.output
    assert "2 analog regions" in result.stdout
    assert "body" in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_a_summary_fits_its_terminal(net: str, columns: int) -> None:
    result = invoke(
        "summary", f"{net}:ready", "--input", "2,6", "--digital", "he*", columns=columns
    )
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= columns
    assert "kept digital: matches 'he*'" in result.stdout
    assert "converted 66.67% of multiply-accumulates" in result.stdout


def test_a_summary_for_programs(net: str, tmp_path: Path) -> None:
    command = ["summary", f"{net}:Net", "--input", "1,6", "--model-arg", "width=5"]
    drawn = tmp_path / "graph.svg"
    found = json.loads(invoke(*command, "--json", "--draw", str(drawn)).stdout)
    assert found["converted_share"] == 1
    assert [region["weight"] for region in found["regions"]] == ["5x6", "3x5"]
    assert drawn.read_text().startswith("<svg")
    rows = list(csv.DictReader(StringIO(invoke(*command, "--csv").stdout)))
    assert [row["region"] for row in rows] == ["body", "head"]


def test_a_loader_calibrates_on_its_training_data(net: str) -> None:
    found = json.loads(
        invoke("summary", f"{net}:Net", "--loader", f"{net}:batches", "--json").stdout
    )
    assert all("uncalibrated" not in region["DAC"] for region in found["regions"])


def test_an_evaluation_for_programs(net: str, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = ["evaluate", f"{net}:Net", "--loader", f"{net}:batches", "--instances", "2"]
    result = invoke(*command, "--eta", "0,0.1", "--json", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert Evaluation.model_validate_json(result.stdout) == Evaluation.load(out)
    rows = list(csv.DictReader(StringIO(invoke(*command, "--csv").stdout)))
    assert [row["chips"] for row in rows] == ["2"]
    assert Evaluation.load(out).samples == 60


def test_one_loader_for_both_says_so(net: str) -> None:
    command = ["evaluate", f"{net}:Net", "--loader", f"{net}:stream", "--instances", "2"]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "calibrated on the data that are measured" in " ".join(result.stderr.split())
    assert "60 samples" in result.stdout


def test_an_onnx_file_is_a_model(net: str, tmp_path: Path) -> None:
    file = str(tmp_path / "net.onnx")
    loader = ["--loader", f"{net}:batches"]
    assert invoke("export", f"{net}:Net", file, *loader).exit_code == 0
    result = invoke("summary", file)
    assert result.exit_code == 0, result.output
    assert "2 analog regions" in result.stdout
    assert "analog already" in result.stderr
    result = invoke("evaluate", file, *loader, "--instances", "2")
    assert result.exit_code == 0, result.output
    assert "60 samples" in result.stdout


def test_a_saved_model_keeps_its_target(net: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 6)
    saved = imported(f"{net}:Net", "model")()
    file = save(analogize(saved, "pcm_8bit", calibration=[x]), tmp_path / "net.safetensors")
    result = invoke("summary", f"{net}:Net", "--weights", str(file))
    assert result.exit_code == 0, result.output
    assert "target pcm_8bit" in result.stdout
    assert "uncalibrated" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "{net}:Nothing"], "cannot import the model"),
        (["summary", "{net}:not_a_model"], "returned int, not a torch.nn.Module"),
        (["summary", "nowhere.py:Net"], "cannot import the model 'nowhere.py:Net'"),
        (["summary", "{net}:Net", "--input", "1,x"], "sizes of at least 1"),
        (["summary", "{net}:Net", "--input", "1,6:strange"], "a type of torch's"),
        (["evaluate", "{net}:Net"], "give either --dataset NAME"),
        (["evaluate", "{net}:Net", "--loader", "{net}:none"], "cannot import the loader"),
        (["evaluate", "{net}:Net", "--loader", "{net}:not_a_model"], "gave a int"),
        (
            ["evaluate", "{net}:Net", "--loader", "{net}:batches", "--dataset", "digits"],
            "give either",
        ),
        (["evaluate", "{net}:Net", "--loader", "{net}:batches", "--limit", "3"], "--limit counts"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(net: str, arguments: list[str], message: str) -> None:
    result = invoke(*(argument.format(net=net) for argument in arguments))
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["summary", "evaluate", "report", "export"])
def test_every_command_that_takes_a_model_has_an_example(command: str) -> None:
    shown = " ".join(invoke(command, "--help").stdout.split())
    assert f"analogize {command} net.py:Net" in shown
    for option in ("--target", "--weights", "--dataset", "--loader", "--model-arg"):
        assert option in shown


def test_exit_codes_are_documented() -> None:
    assert "130 interrupted" in " ".join(invoke("--help").stdout.split())
    assert invoke("summary").exit_code == 2


def test_an_interrupted_run_leaves_its_file_and_says_how_to_go_on(net: str, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    options = ["--loader", f"{net}:batches", "--instances", "100000", "--out", str(out)]
    # A shell starts background jobs with this signal ignored, and the test may run in one.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from analogize.cli import app; app()"
    )
    command = [sys.executable, "-c", code, "evaluate", f"{net}:Net", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        until = time.monotonic() + 300
        # The file is there from the start; a chip is in it once it holds a value.
        while (
            not (out.exists() and Evaluation.load(out).levels[0].values)
            and run.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.1)
        os.kill(run.pid, signal.SIGINT)
        try:
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130, said
    assert f"the same command goes on from {out}" in said
    assert 0 < len(Evaluation.load(out).levels[0].values) < 100000
