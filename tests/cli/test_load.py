"""``analogize load``: whether a saved file loads into a model, and what came; or what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from analogize import analogize, program, save
from analogize.cli import app
from analogize.cli.importing import imported
from analogize.saving.lightning import add_description
from analogize.targets import load_target

NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.body, self.head = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


class Deep(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(3, 3)


class Backwards(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv1d(12, 3, 1)


def broken():
    raise OSError("no weights here")
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "net.py"
    path.write_text(NET)
    return str(path)


@pytest.fixture(scope="module")
def file(net: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = imported(f"{net}:Net", "model")(5)
    analog = analogize(model, "pcm_8bit", calibration=[torch.randn(8, 6)], digital=["head"]).eval()
    program(analog, 3, cycle=2)
    return save(analog, tmp_path_factory.mktemp("file") / "net.safetensors", chip=True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["load", *map(str, arguments)], env={"COLUMNS": "100"})


def told(result: Result) -> str:
    return " ".join(result.output.split())


def test_what_came_is_told(net: str, file: Path) -> None:
    done = run(file, "--model", f"{net}:Net", "--model-arg", "width=5")

    assert done.exit_code == 0, done.output
    for text in (
        "loads into",
        "on cpu, in eval mode, calibrated",
        "a programmed chip of 1 arrays (drawn by seed 3, cycle 2)",
        "target pcm_8bit, captured by hierarchical",
        "5x6",
        "digital: head",
    ):
        assert text in told(done)
    assert max(map(len, done.output.splitlines())) <= 120


def test_json_says_the_same(net: str, file: Path) -> None:
    done = run(file, "--model", f"{net}:Net", "--model-arg", "width=5", "--json")

    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["loads"] is True
    assert found["calibrated"] is True
    assert found["chip"]["seed"] == 3
    (part,) = found["parts"]
    assert part["target"] == "pcm_8bit"
    assert part["front_end"] == "hierarchical"
    assert part["regions"] == [{"name": "body", "operator": "linear", "weight_shape": [5, 6]}]
    assert part["digital"][0]["name"] == "head"


@pytest.mark.parametrize(
    ("model", "difference"),
    [
        (["Net"], "'body.weight' has shape (12, 6) here and (5, 6) in the file"),
        (["Net", "--model-arg", "width=4"], "'body.weight' has shape (4, 6) here"),
        (["Deep"], "does not fit"),
        (["Backwards"], "does not fit"),
        (["broken"], "no weights here"),
        (["nobody"], "nobody"),
    ],
)
def test_the_first_difference_is_told_with_status_1(
    net: str, file: Path, model: list[str], difference: str
) -> None:
    done = run(file, "--model", f"{net}:{model[0]}", *model[1:])

    assert done.exit_code == 1
    assert difference in told(done)
    assert "Traceback" not in done.output


def test_without_a_model_the_way_out_is_told(file: Path) -> None:
    done = run(file)

    assert done.exit_code == 1
    assert "--model" in told(done)


@pytest.mark.parametrize("cut", [0, 20, 400])
def test_damaged_and_missing_files_are_errors_of_one_line(
    net: str, file: Path, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "x.safetensors").write_bytes(file.read_bytes()[:cut])

    for name in ("x.safetensors", "nothing"):
        done = run(tmp_path / name, "--model", f"{net}:Net")
        assert done.exit_code == 1
        assert name in told(done)
        assert "Traceback" not in done.output


def test_functions_run_only_with_leave(net: str, tmp_path: Path) -> None:
    model = imported(f"{net}:Net", "model")()
    (tmp_path / "own_noise.py").write_text(
        "def still(weights, low, high, generator):\n    return weights\n"
    )
    (tmp_path / "own.yaml").write_text(
        "schema: 1\nname: own\ndac: {bits: 8}\n"
        "noise: [{model: custom, function: 'own_noise:still'}]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        analog = analogize(model, load_target(tmp_path / "own.yaml", allow_functions=True))
        file = save(analog, tmp_path / "own.safetensors")
        refused = run(file, "--model", f"{net}:Net")
        allowed = run(file, "--model", f"{net}:Net", "--allow-functions")

    assert refused.exit_code == 1
    assert "own_noise" in told(refused)
    assert "--allow-functions" in told(refused)
    assert allowed.exit_code == 0, allowed.output
    assert "not calibrated yet" in told(allowed)


def test_a_checkpoint_that_describes_itself_loads_and_is_evaluated(
    net: str, tmp_path: Path
) -> None:
    analog = analogize(
        imported(f"{net}:Net", "model")(), "pcm_8bit", calibration=[torch.randn(8, 6)]
    )
    checkpoint = {"state_dict": {f"net.{k}": v for k, v in analog.state_dict().items()}}
    add_description(checkpoint, analog, "net.")
    torch.save(checkpoint, tmp_path / "last.ckpt")

    done = run(tmp_path / "last.ckpt", "--model", f"{net}:Net")
    command = ["summary", f"{net}:Net", "--weights", str(tmp_path / "last.ckpt")]
    summed = CliRunner().invoke(app, command)

    assert done.exit_code == 0, done.output
    assert "no programmed chip" in told(done)
    assert summed.exit_code == 0, summed.output
    assert "pcm_8bit" in summed.output  # not the default of --target


def test_a_folder_of_hugging_faces_needs_no_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=9, intermediate_size=32, **sizes)
    model: nn.Module = transformers.BertModel(config)
    ids = torch.randint(9, (2, 5))
    analogize(model, "pcm_8bit", calibration=[{"input_ids": ids}]).save_pretrained(tmp_path)  # type: ignore[operator]

    done = run(tmp_path)

    assert done.exit_code == 0, done.output
    assert "target pcm_8bit" in told(done)
    assert run(tmp_path, "--model", "transformers:BertModel").exit_code == 0
    wrong = run(tmp_path, "--model", "transformers:BertForMaskedLM")
    assert wrong.exit_code == 1
    assert "does not fit" in told(wrong)
