"""The picture is well-formed and shows every region."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from analogize import analogize, summary
from analogize.draw import draw
from analogize.errors import AnalogizeError, ExportError
from analogize.models import DigitsNet, cifar_resnet32

SPACE = "{http://www.w3.org/2000/svg}"


def test_every_region_is_drawn_once(tmp_path: Path) -> None:
    model = analogize(cifar_resnet32().eval(), "pcm_4bit", digital=["fc"])
    root = ElementTree.parse(summary(model).draw(tmp_path / "graph.svg")).getroot()
    kinds = [g.get("data-kind") for g in root.iter(f"{SPACE}g")]
    assert kinds.count("analog") == 31
    assert kinds.count("declined") == 1
    # No two boxes in one place.
    boxes = [
        (r.get("x"), r.get("y")) for g in root.iter(f"{SPACE}g") for r in g.iter(f"{SPACE}rect")
    ]
    assert len(set(boxes)) == len(boxes)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalogizeError, match="not rewritten"):
        draw(DigitsNet(), tmp_path / "graph.svg")
    model = analogize(DigitsNet(), "pcm_4bit", [torch.rand(4, 1, 8, 8)])
    with pytest.raises(ExportError, match="svg"):
        draw(model, tmp_path / "graph.png")
    with pytest.raises(ExportError, match="cannot be written"):
        draw(model, tmp_path / "nowhere" / "graph.svg")
