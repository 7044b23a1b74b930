"""The guide's script runs from measurements to accuracy, and its made-up device is found again."""

import runpy
import sys
from pathlib import Path

import pytest

from analogize.targets.load import load_target

SCRIPT = Path(__file__).parents[2] / "examples" / "new_target.py"


def test_new_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", str(tmp_path), "--instances", "2"])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    target = load_target(tmp_path / "my_chip.yaml")
    assert target.conductance is not None
    assert target.conductance.g_max == 50.0
    assert target.array is not None
    assert target.array.tiling
    assert "accuracy on my_chip, 397 samples" in capsys.readouterr().out
