"""Every recipe runs to its end on a few images; what it measures means nothing here."""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analogize.demo.models import cifar_resnet18_v2, cifar_resnet32

EXAMPLES = Path(__file__).parents[2] / "examples"

# Lightning's own: it compares tree specifications in a way that newer torch deprecates, and points
# out that a few images could be loaded by workers.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


def image_folder(root: Path, splits: tuple[str, str], classes: int, size: int) -> Path:
    generator = np.random.default_rng(0)
    for split in splits:
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for k in range(2):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


def run(
    monkeypatch: pytest.MonkeyPatch, name: str, out: Path, *arguments: str
) -> dict[str, object]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    settings = ["--epochs", "1", "--clean-epochs", "1", "--clipped-epochs", "1", "--etas", "0.05"]
    settings += ["--instances", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [name, *settings, "--out", str(out), *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    written = "options" if name == "resnet32_options.py" else "results"
    result: dict[str, object] = json.loads((out / f"{written}.json").read_text())
    assert (out / f"{written}.png").exists()
    return result


def rows(result: dict[str, object]) -> list[tuple[str, float]]:
    return [(row["method"], row["eta"]) for row in result["rows"]]  # type: ignore[attr-defined]


THREE_WAYS = [
    ("no retraining", 0.0),
    ("no retraining", 0.05),
    ("noise injection", 0.05),
    ("distillation", 0.05),
]


@pytest.mark.parametrize(("words", "expected"), [([], False), (["--compile"], True)])
def test_what_is_retrained_is_compiled_where_asked(
    monkeypatch: pytest.MonkeyPatch, words: list[str], expected: bool
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    comparison = importlib.import_module("comparison")
    args = comparison.options("", (0.1,), "out").parse_args(
        ["--data", "DIR", "--device", "cpu", *words]
    )
    model = comparison.compiled(torch.nn.Linear(2, 2), args)
    assert (model._compiled_call_impl is not None) is expected


def test_lenet5(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("lenet5_mnist.py", tmp_path / "out", "--data", str(mnist))
    first = run(monkeypatch, *arguments)
    assert rows(first) == THREE_WAYS
    # The same command again finds everything done, and the same numbers.
    assert run(monkeypatch, *arguments)["rows"] == first["rows"]
    # Its checkpoints would go on along a schedule of another length.
    with pytest.raises(SystemExit, match="--epochs was 1, not 2"):
        run(monkeypatch, *arguments, "--epochs", "2")


def test_resnet32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(tmp_path / "data", ("train", "test"), 10, 32)
    out = tmp_path / "out"
    arguments = ("--data", str(data), "--cross", "0.05")
    assert rows(run(monkeypatch, "resnet32_cifar10.py", out, *arguments)) == THREE_WAYS
    assert len(json.loads((out / "cross.json").read_text())) == 4

    # The options go on from the same clean, clipped and distilled models.
    before = {file: (out / file).stat().st_mtime_ns for file in ("clean.ckpt", "clipped.ckpt")}
    arguments = ("--data", str(data), "--eta", "0.05", "--together", "averaged")
    found = run(monkeypatch, "resnet32_options.py", out, *arguments)
    names = ["plain", "recalibrated", "varying", "warm-up", "averaged", "together"]
    expected = [(name, eta) for name in names for eta in (0.0, 0.05)]
    assert [(r["option"], r["eta"]) for r in found["rows"]] == expected  # type: ignore[attr-defined]
    assert set(found["tolerance"]) == set(names)  # type: ignore[call-overload]
    for file, time in before.items():
        assert (out / file).stat().st_mtime_ns == time, f"{file} was trained again"
    with pytest.raises(SystemExit, match=r"--gradient-clip was None, not 1\.0"):
        run(monkeypatch, "resnet32_options.py", out, *arguments, "--gradient-clip", "1")


def test_resnet32_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(tmp_path / "data", ("train", "test"), 10, 32)
    torch.save(cifar_resnet32().state_dict(), weights := tmp_path / "weights.pt")
    settings = ["--data", str(data), "--out", str(out := tmp_path / "out"), "--steps", "1"]
    settings += ["--weights", str(weights), "--epochs", "1", "--clipped-epochs", "1"]
    settings += ["--etas", "0.05", "--instances", "2", "--device", "cpu"]
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def found(*more: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["resnet32_tolerance.py", *settings, *more])
        runpy.run_path(str(EXAMPLES / "resnet32_tolerance.py"), run_name="__main__")
        written: list[dict[str, Any]] = json.loads((out / "tolerance-test20.json").read_text())[
            "rows"
        ]
        return written

    # Seven remedies, with and without digital ends, at two levels.
    every = found("--trainings", "distillation")
    assert len(every) == 28
    assert all(row["digital_parameters"] > 0 for row in every if row["remedy"] == "adapted")
    before = {file: file.stat().st_mtime_ns for file in out.glob("*.npz")}
    one = ["--trainings", "distillation", "--remedies", "as is", "--ends", "analog"]
    assert found(*one) == every
    # What another setting made is not taken for its own, and 2 chips not for 3.
    assert len(found(*one, "--lr", "0.3")) == 30
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert sorted(len(row["values"]) for row in found(*one, "--instances", "3"))[-2:] == [2, 3]
    again = [file.stem for file in before if file.stat().st_mtime_ns != before[file]]
    assert [name.endswith("all-analog-as-is-test20-0.05") for name in again] == [True]
    # Nor what another clean model led to.
    torch.save(cifar_resnet32().state_dict(), weights)
    with pytest.raises(SystemExit, match="--weights was a file with digest"):
        found(*one)


@pytest.mark.parametrize(
    "setting", ["range=2", "clipped_epochs=2", "epochs=2", "lr=0.3", "eta=0.2", "temperature=3"]
)
def test_settings_name_a_training(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = importlib.import_module("resnet32_tolerance")
    monkeypatch.setattr(sys, "argv", ["resnet32_tolerance.py", "--data", "anywhere"])
    plain, (name, value) = recipe.arguments(), setting.split("=")
    other = argparse.Namespace(**vars(plain) | {name: float(value)})
    assert recipe.name_of(plain, "distillation") != recipe.name_of(other, "distillation")


def test_resnet18(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(tmp_path / "data", ("train", "test"), 10, 32)
    torch.save(cifar_resnet18_v2(width=8).state_dict(), weights := tmp_path / "weights.pt")
    arguments = ("--data", str(data), "--limit", "8", "--weights", str(weights), "--width", "8")
    found = run(monkeypatch, "resnet18_cifar10.py", tmp_path / "out", *arguments)
    assert rows(found) == THREE_WAYS
    assert not (tmp_path / "out" / "clean.ckpt").exists(), "the clean model was given"


def test_resnet50(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(tmp_path / "data", ("train", "val"), 2, 40)
    small = ("--weights", "none", "--workers", "0", "--image-size", "32", "--batch-size", "4")
    arguments = ("resnet50_imagenet.py", tmp_path / "out", "--data", str(data), *small)
    assert rows(run(monkeypatch, *arguments)) == THREE_WAYS
