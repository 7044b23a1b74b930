"""The sentence encoder's recipe runs to its end at reduced size; its figures mean nothing here."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minilm.py"


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_the_recipe_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    options = ["--tiny", "--pairs", "8", "--chips", "2", "--times", "1 hour", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["minilm.py", "--out", str(tmp_path), *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["digital"]["cosine"] == pytest.approx(1)
    for row in results["stages"].values():
        assert -1 <= row["off"]["spearman"] <= 1
    fitted = results["devices"]["pcm_joshi2020, fitting"]
    low, high = fitted["1 hour"]["cosine"]["interval"]
    assert low <= fitted["1 hour"]["cosine"]["mean"] <= high
    assert fitted["count"] == len(fitted["values"]) == 2
    assert results["recalibrated"]["pcm_joshi2020, fitting, two pairs"]["count"] == 2
    assert results["distilled"]["pcm_joshi2020, fitting"]["count"] == 2
    assert results["distillation"]["steps"] == 3
    assert results["remedies"]["as it is"]["off"]["cosine"] <= 1
    runpy.run_path(str(EXAMPLE), run_name="__main__")  # everything is there
    assert json.loads((tmp_path / "results.json").read_text()) == results
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--times", "1 day"])
    with pytest.raises(SystemExit, match="--times was"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
