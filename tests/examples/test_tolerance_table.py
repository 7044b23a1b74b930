"""The table of resnet32_tolerance.py, from cells as it writes them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTINGS = {"range": 1.0, "clipped": 3, "epochs": 5, "at": 0.06, "seed": 0}
WHERE = {"ends": "all-analog", "remedy": "as is", "steps": 0, "images": "test100"}


def right(accuracy: float, chips: int = 3) -> np.ndarray:
    """Of 100 images, the first so many are told right on every chip."""
    return np.packbits(np.tile(np.arange(100) < round(100 * accuracy), (chips, 1)), axis=1)


def write(out: Path, training: str, temperature: float, lr: float, curve: list[float]) -> None:
    for eta, accuracy in zip((0.0, 0.1, 0.2), curve, strict=True):
        facts: dict[str, Any] = SETTINGS | WHERE | {"training": training, "T": temperature}
        facts |= {"lr": lr, "eta": eta, "values": [accuracy] * 3}
        name = f"{training.replace(' ', '-')}-lr{lr:g}-seed0-test100-{eta:g}.npz"
        np.savez(out / name, bits=right(accuracy), images=100, facts=json.dumps(facts))


def test_ratios_are_of_trainings_that_differ_in_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    table = importlib.import_module("tolerance_table")
    np.savez(tmp_path / "clean-test100.npz", bits=right(0.9, 1)[0], images=100)
    write(tmp_path, "noise injection", 0, 0.02, [0.9, 0.8, 0.7])
    write(tmp_path, "distillation", 6.0, 0.02, [0.9, 0.9, 0.7])
    write(tmp_path, "distillation", 6.0, 0.05, [0.9, 0.9, 0.9])
    table.summarise(tmp_path, "test100")
    written = json.loads((tmp_path / "tolerance-test100.json").read_text())
    assert written["clean"] == 0.9
    assert len(written["rows"]) == 9
    # Five points below are met at 0.1 + 0.1 * 5 / 20 and at 0.1 * 5 / 10.
    ratios = {row["points"]: row["ratio"] for row in written["ratios"]}
    assert ratios[5] == pytest.approx(0.125 / 0.05)
    assert set(ratios) == {1, 3, 5}
    assert {row["lr"] for row in written["ratios"]} == {0.02}
    assert "distillation tolerates 2.500" in capsys.readouterr().out
