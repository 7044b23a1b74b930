"""``analogize evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner, Result

from analogize import analogize
from analogize.cli import app
from analogize.data import load_dataset
from analogize.evaluation.evaluation import Evaluation
from analogize.evaluation.montecarlo import evaluate
from analogize.models import DigitsNet

NET = "analogize.models:DigitsNet"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def trained() -> DigitsNet:
    torch.manual_seed(0)
    data = load_dataset("digits", None, True)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for inputs, targets in data.batches(64, generator=generator):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture
def weights(trained: DigitsNet, tmp_path: Path) -> str:
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def test_measures_what_the_api_measures(trained: DigitsNet, weights: str, tmp_path: Path) -> None:
    out, plot = tmp_path / "run.json", tmp_path / "run.png"
    command = [NET, "--weights", weights, "--dataset", "digits", "--eta", "0,0.05,target"]
    more = ["--instances", "3", "--seed", "5", "--target", "pcm_4bit", "--batch-size", "100"]
    result = invoke(*command, *more, "--out", str(out), "--plot", str(plot))
    assert result.exit_code == 0, result.output
    assert "accuracy on pcm_4bit, 355 samples, seed 5" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")

    train, test = load_dataset("digits", None, True), load_dataset("digits", None, False)
    analog = analogize(trained, "pcm_4bit", train.take(800).batches(100))
    expected = evaluate(
        analog, test.batches(100), eta=[0, 0.05, None], instances=3, seed=5, progress=False
    )
    assert Evaluation.load(out) == expected
    assert (expected.levels[0].mean or 0) > 0.9


def test_draws_to_a_precision_and_says_how_many(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [NET, "--weights", weights, "--dataset", "digits", "--limit", "100", "--eta", "0.2"]
    more = ["--instances", "5", "--precision", "0.03", "--at-once", "4", "--out", str(out)]
    result = invoke(*command, *more)
    assert result.exit_code == 0, result.output
    (level,) = Evaluation.load(out).levels
    assert level.pilot == 5
    assert level.interval is not None
    assert level.interval[1] - level.interval[0] <= 2 * 0.03 + 1e-9
    assert f" {len(level.values)} " in result.stdout


def test_goes_on_from_out_and_starts_over_only_when_told(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [NET, "--weights", weights, "--dataset", "digits", "--out", str(out), "--limit", "50"]
    assert invoke(*command, "--instances", "2").exit_code == 0
    first = Evaluation.load(out)
    assert invoke(*command, "--instances", "4").exit_code == 0
    assert Evaluation.load(out).levels[0].values[:2] == first.levels[0].values

    refused = invoke(*command, "--instances", "2", "--seed", "1")
    assert refused.exit_code == 1
    assert "holds another run: seed 0 instead of 1" in refused.stderr
    assert Evaluation.load(out).fingerprint.seed == 0
    assert invoke(*command, "--instances", "2", "--seed", "1", "--overwrite").exit_code == 0
    assert Evaluation.load(out).fingerprint.seed == 1


def test_a_rewritten_models_state_dict_brings_its_ranges(
    trained: DigitsNet, tmp_path: Path
) -> None:
    data = load_dataset("digits", None, True)
    analog = analogize(trained, "pcm_4bit", data.take(30).batches(30))
    torch.save({"state_dict": analog.state_dict()}, tmp_path / "analog.pt")
    out = tmp_path / "run.json"
    command = [NET, "--weights", str(tmp_path / "analog.pt"), "--dataset", "digits"]
    result = invoke(*command, "--instances", "2", "--out", str(out))
    assert result.exit_code == 0, result.output
    expected = evaluate(
        analog, load_dataset("digits", None, False).batches(256), instances=2, progress=False
    )
    assert Evaluation.load(out) == expected


def test_an_image_folder_and_a_factory_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        for label, colour in (("dark", 30), ("light", 220)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for k in range(4):
                Image.new("RGB", (12, 12), (colour + k, colour, colour)).save(folder / f"{k}.png")
    (tmp_path / "own_network_of_a_user.py").write_text(
        "from torch import nn\n"
        "def build(width, act='relu'):\n"
        "    assert act == 'gelu'\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * width * width, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = invoke(
        *("own_network_of_a_user:build", "--model-arg", "width=8", "--model-arg", "act=gelu"),
        *("--dataset", "imagefolder", "--data", "data", "--image-size", "8", "--instances", "2"),
    )
    assert result.exit_code == 0, result.output
    assert "8 samples" in result.stdout


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["DigitsNet", "--dataset", "digits"], "must read package.module:factory"),
            (["no.such:thing", "--dataset", "digits"], "cannot import the model 'no.such:thing'"),
            (["analogize.models:NoNet", "--dataset", "digits"], "cannot import the model"),
            (["builtins:dict", "--dataset", "digits"], "returned dict, not a torch.nn.Module"),
            (
                ["torch.nn:Linear", "--dataset", "digits", "--model-arg", "in_features=3"],
                "torch.nn:Linear(in_features=3) failed: TypeError",
            ),
            ([NET, "--dataset", "digits", "--model-arg", "ten"], "must read key=value"),
            ([NET, "--dataset", "digit"], "did you mean 'digits'"),
            ([NET, "--dataset", "mnist"], "--data DIR"),
            ([NET, "--dataset", "digits", "--target", "pcm_4bits"], "pcm_4bit"),
            ([NET, "--dataset", "digits", "--eta", "0;1"], "'0;1' is no number"),
            ([NET, "--dataset", "digits", "--eta", "-1"], "eta -1.0 must be"),
            ([NET, "--dataset", "digits", "--instances", "0"], "instances is 0"),
            ([NET, "--dataset", "digits", "--precision", "0"], "precision is 0"),
            ([NET, "--dataset", "digits", "--at-once", "0"], "at_once is 0"),
            ([NET, "--dataset", "digits", "--batch-size", "0"], "batch_size is 0"),
            ([NET, "--dataset", "digits", "--calibration-batches", "0"], "--calibration-batches"),
            ([NET, "--dataset", "digits", "--limit", "0"], "limit is 0"),
            ([NET, "--dataset", "digits", "--plot", "run.doc"], "suffix must be one of"),
            ([NET, "--dataset", "digits", "--weights", "no.pt"], "cannot read the weights no.pt"),
            ([NET, "--dataset", "digits", "--device", "warp"], "--device 'warp' cannot be used"),
        ],
    )
    def test_prints_one_red_line(self, arguments: list[str], message: str) -> None:
        result = invoke(*arguments)
        assert result.exit_code == 1, result.output
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.output

    def test_weights_that_do_not_fit(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "other.pt")
        result = invoke(NET, "--dataset", "digits", "--weights", str(tmp_path / "other.pt"))
        assert result.exit_code == 1
        assert "do not fit the model" in result.stderr

    @pytest.mark.parametrize("content", [[1, 2], {}])
    def test_weights_that_are_no_state_dict(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "other.pt")
        result = invoke(NET, "--dataset", "digits", "--weights", str(tmp_path / "other.pt"))
        assert result.exit_code == 1
        assert "not a state_dict" in result.stderr

    def test_weights_are_not_unpickled_as_code(self, tmp_path: Path) -> None:
        torch.save(DigitsNet(), tmp_path / "module.pt")
        result = invoke(NET, "--dataset", "digits", "--weights", str(tmp_path / "module.pt"))
        assert result.exit_code == 1
        assert "cannot read the weights" in result.stderr

    def test_a_damaged_file_of_results(self, weights: str, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(json.dumps({"schema": 99}))
        command = [NET, "--weights", weights, "--dataset", "digits"]
        result = invoke(*command, "--out", str(tmp_path / "run.json"))
        assert result.exit_code == 1
        assert "no evaluation of schema 1" in result.stderr


def test_over_time(trained: DigitsNet, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [NET, "--weights", weights, "--dataset", "digits", "--target", "pcm_joshi2020"]
    more = ["--instances", "2", "--drift-time", "0 s, 1 year", "--compensation", "none"]
    more += ["--yield-above", "0.5"]
    result = invoke(*command, *more, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "1 year" in result.stdout
    assert "noise, 1 year later: " in result.stdout
    assert "of 2 chips reach 0.5" in result.stdout

    run = Evaluation.load(out)
    assert [level.drift_time for level in run.levels] == [0.0, 365 * 86400.0]
    assert run.fingerprint.deployment == "compensation none"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--drift-time", "1 fortnight"], "drift_time '1 fortnight' is no time"),
        (["--drift-time", "1 day,1 day"], "drift_time holds 1 day twice"),
        (["--compensation", "all"], "'none', 'global', 'tile', 'column'"),
        (["--recalibrate"], "has no BatchNorm layer with running statistics"),
    ],
)
def test_times_and_remedies_that_cannot_be(option: list[str], message: str, weights: str) -> None:
    command = [NET, "--weights", weights, "--dataset", "digits", "--target", "pcm_joshi2020"]
    result = invoke(*command, *option)
    assert result.exit_code != 0
    assert message in result.output + result.stderr


def test_conditions_are_those_of_the_api(trained: DigitsNet, weights: str, tmp_path: Path) -> None:
    warm = tmp_path / "warm.yaml"
    warm.write_text(
        "schema: 1\nextends: pcm_joshi2020\nname: warm\nnoise:\n"
        "  - {model: programming, sigma: {kind: polynomial, coefficients: [2.0]}}\n"
        "  - {model: temperature, activation: {kind: polynomial, coefficients: [0.3]},\n"
        "     reference: 300.0, min: 250.0, max: 400.0}\n"
    )
    command = [NET, "--weights", weights, "--dataset", "digits", "--limit", "60"]
    command += ["--instances", "2", "--batch-size", "60", "--calibration-batches", "1"]
    command += ["--target", str(warm), "--json", "--condition"]
    result = invoke(*command, "temperature=390")
    assert result.exit_code == 0, result.output

    train, test = load_dataset("digits", None, True), load_dataset("digits", None, False)
    analog = analogize(trained, str(warm), train.take(60).batches(60))
    data = list(test.take(60).batches(60))
    hot = evaluate(analog, data, instances=2, conditions={"temperature": 390.0})
    found = Evaluation.model_validate_json(result.stdout)
    assert found.levels[0].values == hot.levels[0].values
    assert found.levels[0].values != evaluate(analog, data, instances=2).levels[0].values
    assert "NAME=VALUE" in invoke(*command, "temperature").stderr
