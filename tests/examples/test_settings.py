"""A folder of results is never taken up by a run of other settings."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("settings")


def options(out: Path, **values: Any) -> argparse.Namespace:
    plain = {"out": str(out), "data": "here", "epochs": 3, "etas": [0.1]}
    return argparse.Namespace(**plain | values)


def test_the_same_options_go_on(settings: Any, tmp_path: Path) -> None:
    for _ in range(2):
        settings.claim(options(tmp_path / "deep" / "out"), data="some")
    assert json.loads((tmp_path / "deep/out/settings.json").read_text()) == {
        "epochs": 3,
        "data": "some",
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"epochs": 4}, "--epochs was 3, not 4"),
        ({"gradient_clip": 1.0}, "--gradient-clip was None, not 1.0"),
        ({"network": "wide"}, "--network was None, not wide"),
    ],
)
def test_another_option_is_refused_by_name(
    settings: Any, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    plain: dict[str, Any] = {"gradient_clip": None, "network": None}
    settings.claim(options(tmp_path, **plain))
    before = (tmp_path / "settings.json").read_text()
    with pytest.raises(SystemExit) as refused:
        settings.claim(options(tmp_path, **plain | changed), unknown="so far")
    assert told in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "another --out" in str(refused.value)
    assert (tmp_path / "settings.json").read_text() == before


def test_other_data_are_refused(settings: Any, tmp_path: Path) -> None:
    settings.claim(options(tmp_path), data="20 samples a")
    with pytest.raises(SystemExit, match="data was 20 samples a, not 20 samples b"):
        settings.claim(options(tmp_path), data="20 samples b")


def test_free_options_may_differ(settings: Any, tmp_path: Path) -> None:
    settings.claim(options(tmp_path, cross=None), "cross")
    settings.claim(options(tmp_path, cross=0.1, etas=[0.2], data="there"), "cross")


def test_recipes_that_share_a_folder_are_compared_by_what_both_have(
    settings: Any, tmp_path: Path
) -> None:
    settings.claim(options(tmp_path))
    settings.claim(options(tmp_path, together=["averaged"]))
    with pytest.raises(SystemExit, match="--together"):
        settings.claim(options(tmp_path, together=["varying"]))
    with pytest.raises(SystemExit, match="--epochs"):
        settings.claim(options(tmp_path, epochs=4))


def test_of_a_file_the_content_counts(settings: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here.pt", tmp_path / "there.pt"
    here.write_bytes(b"weights")
    there.write_bytes(b"weights")
    settings.claim(options(tmp_path / "out", weights=str(here)))
    settings.claim(options(tmp_path / "out", weights=there))
    here.write_bytes(b"other weights")
    with pytest.raises(SystemExit, match="--weights was a file with digest"):
        settings.claim(options(tmp_path / "out", weights=str(here)))
