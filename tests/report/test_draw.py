"""The picture is well-formed and shows every region."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from analogize import analogize, summary
from analogize.demo.models import DigitsNet, cifar_resnet32
from analogize.errors import AnalogizeError, ExportError
from analogize.report.draw import draw

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


def _numbers(path: str) -> list[tuple[float, float]]:
    """The corners of a line that runs in the gaps."""
    points: list[tuple[float, float]] = []
    for command, text in re.findall(r"([MVH])([\d.,-]+)", path):
        x, y = points[-1] if points else (0.0, 0.0)
        if command == "M":
            x, y = (float(v) for v in text.split(","))
        points.append((float(text), y) if command == "H" else (x, y if command == "M" else 0.0))
        if command == "V":
            points[-1] = x, float(text)
    return points


def test_a_deep_graph_is_folded_and_no_line_crosses_a_box(tmp_path: Path) -> None:
    model = analogize(cifar_resnet32().eval(), "pcm_4bit")
    root = ElementTree.parse(draw(model, tmp_path / "graph.svg")).getroot()
    width, height = int(root.get("width") or 0), int(root.get("height") or 0)
    assert 0.5 < width / height < 4
    boxes = [
        [float(r.get(k) or 0) for k in ("x", "y", "width", "height")]
        for g in root.iter(f"{SPACE}g")
        for r in g.iter(f"{SPACE}rect")
    ]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    lines = [p.get("d") or "" for p in root.iter(f"{SPACE}path")]
    routed = [_numbers(d) for d in lines if "H" in d]
    # 15 shortcuts, and the strips' ends.
    assert len(routed) >= 15
    for (x1, y1), (x2, y2) in (leg for points in routed for leg in pairwise(points)):
        for x, y, w, h in boxes:
            apart = max(x1, x2) <= x or min(x1, x2) >= x + w
            assert apart or max(y1, y2) <= y or min(y1, y2) >= y + h


def test_biases_are_named_and_their_casts_are_not_drawn(tmp_path: Path) -> None:
    model = analogize(DigitsNet(), "pcm_4bit", [torch.rand(4, 1, 8, 8)])
    text = draw(model, tmp_path / "graph.svg").read_text(encoding="utf-8")
    assert text.count("+ bias") == 2 * 4  # title and label of each
    assert "fc2.bias" in text
    assert "type_as" not in text


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalogizeError, match="not rewritten"):
        draw(DigitsNet(), tmp_path / "graph.svg")
    model = analogize(DigitsNet(), "pcm_4bit", [torch.rand(4, 1, 8, 8)])
    with pytest.raises(ExportError, match="svg"):
        draw(model, tmp_path / "graph.png")
    with pytest.raises(ExportError, match="cannot write the drawing to"):
        draw(model, tmp_path / "nowhere" / "graph.svg")
