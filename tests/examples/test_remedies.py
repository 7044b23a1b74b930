"""The remedies of LeNet-5 run to their end on a few images, which mean nothing."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_remedy_at_every_level(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--data", str(mnist), "--out", str(tmp_path), "--etas", "0", "0.1"]
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["lenet5_remedies.py", *arguments, "--instances", "2"])
    runpy.run_path(str(EXAMPLES / "lenet5_remedies.py"), run_name="__main__")
    rows = json.loads((tmp_path / "remedies.json").read_text())["rows"]
    assert len(rows) == 12
    assert [len(row["values"]) for row in rows if row["eta"]] == [2] * 6
