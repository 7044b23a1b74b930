"""A line of the committed picture is of one training."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_line_has_a_level_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name, rows in importlib.import_module("resnet32_picture").curves().items():
        levels = [row["eta"] for row in rows]
        assert len(levels) > 2, name
        assert len(levels) == len(set(levels)), name
