"""The language model's recipe runs to its end at reduced size; its figures mean nothing here."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "language_model.py"


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
def test_the_recipe_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    options = ["--tiny", "--chips", "2", "--times", "1 hour"]
    monkeypatch.setattr(sys, "argv", ["language_model.py", "--out", str(tmp_path), *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    results = json.loads((tmp_path / "results.json").read_text())
    # Four steps are enough to leave nobody better off than chance: 96 symbols.
    assert 1 < results["off"] < 2 * 96
    for name in ("chips", "distilled, chips"):
        low, high = results[name]["1 hour"]["interval"]
        assert low <= results[name]["1 hour"]["mean"] <= high
    assert results["chips, LoRA"]["parameters"] > 0
    assert results["generated, chip"].startswith("Return the ")
