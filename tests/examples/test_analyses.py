"""The scripts of section 4 and of assignments run to their end on a few made-up images."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from analogize import analogize, regions
from analogize.demo.models import LeNet5

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    # The script sets the number of threads, which is the whole process's.
    threads = ["--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", [name, *arguments, *threads])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("options", [["--bf16"], ["--recalibrate"]])
def test_assign(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    model = LeNet5()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.ckpt")
    out = tmp_path / "out"
    arguments = ["lenet5", "--data", str(mnist), "--weights", str(tmp_path / "weights.ckpt")]
    arguments += ["--target", "paper_lenet5_8bit", "--max-drop", "0.5", "--out", str(out)]
    arguments += ["--limit", "20", "--test-limit", "10", "--check-limit", "8", *options]
    arguments += ["--instances", "4", "--screening", "3", "--fresh", "3", "--whole", "2"]
    run(monkeypatch, "assign.py", *arguments)
    found: dict[str, Any] = json.loads((out / "lenet5.json").read_text())
    assert found["assignment"]["samples"] == 10
    assert found["assignment"]["unseen_samples"]
    assert found["assignment"]["bound"] <= 0.5
    checks = found["fresh_chips"]
    assert [checks[name]["images"] for name in ("images of the search", "unseen images")] == [20, 8]
    assert all(check["chips, assigned"] == 3 for check in checks.values())
    # The file it wrote is the assignment it found.
    batches = [(torch.randn(4, 1, 28, 28), torch.zeros(4))]
    analog = analogize(model, out / "lenet5.yaml", batches)
    kept = {"conv1", "conv2", "fc1", "fc2", "fc3"} - set(found["assignment"]["digital"])
    assert {region.name for region in regions(analog)} == kept


def test_assign_may_leave_nothing_analog(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(LeNet5().state_dict(), tmp_path / "weights.pt")
    arguments = ["lenet5", "--data", str(mnist), "--weights", str(tmp_path / "weights.pt")]
    # On ten images no share of right answers is known to a millionth.
    arguments += ["--target", "paper_lenet5_8bit", "--max-drop", "1e-6", "--out", str(tmp_path)]
    arguments += ["--limit", "20", "--test-limit", "10", "--check-limit", "8"]
    arguments += ["--instances", "4", "--screening", "3", "--fresh", "3", "--whole", "2"]
    run(monkeypatch, "assign.py", *arguments)
    found: dict[str, Any] = json.loads((tmp_path / "lenet5.json").read_text())
    assert found["share_of_macs_digital"] == 1
    assert all("drop, assigned" not in check for check in found["fresh_chips"].values())
    assert all("drop, nothing digital" in check for check in found["fresh_chips"].values())


def other_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: 2 * value for name, value in state.items()}


def test_fig2(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(mnist), "--network", "wide", "--out", str(out), "--epochs", "1"]
    arguments += ["--levels", "0,0.5", "--instances", "4", "--samples", "10", "--crossings", "1"]
    run(monkeypatch, "fig2_lenet5.py", *arguments)
    found = json.loads((out / "run.json").read_text())
    assert [claim["paper"] for claim in found["claims"]] == [0.9919, 0.6, "yes"]
    assert [other["seed"] for other in found["other_trainings"]] == [1]
    assert (out / "fig2.png").exists()
    trained = torch.load(out / "wide.pt", weights_only=True)
    other = torch.load(out / "levels" / "training-1.pt", weights_only=True)
    assert not torch.equal(trained["conv1.weight"], other["conv1.weight"])
    # The same command again finds everything trained and measured.
    before = {file: file.stat().st_mtime_ns for file in [*out.glob("levels/*"), out / "wide.pt"]}
    run(monkeypatch, "fig2_lenet5.py", *arguments)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert json.loads((out / "run.json").read_text()) == found
    # Another training, or other chips, would be reported with these figures.
    for other in (["--instances", "5"], ["--seed", "1"], ["--weights", str(out / "other.pt")]):
        torch.save(other_weights(trained), out / "other.pt")
        with pytest.raises(SystemExit, match=f"{other[0].strip('-')} was"):
            run(monkeypatch, "fig2_lenet5.py", *arguments, *other)
