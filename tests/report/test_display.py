"""What results look like where they are shown: terminals, notebooks, data frames, completion."""

from __future__ import annotations

import csv
import re
from importlib.util import find_spec
from io import StringIO
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from torch import nn

from analogize import (
    Evaluation,
    Summary,
    Target,
    analogize,
    bias_variance,
    evaluate,
    program,
    read_chip,
    summary,
)
from analogize.display import progress
from analogize.display.tables import csv_text, html
from analogize.report.draw import Drawing
from analogize.targets import load_target, names

DATA = [(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3)]


@pytest.fixture(scope="module")
def analog() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return analogize(model, "pcm_4bit", calibration=DATA, digital=["2"])


@pytest.fixture(scope="module")
def found(analog: nn.Module) -> Summary:
    return summary(analog)


@pytest.fixture(scope="module")
def curve(analog: nn.Module) -> Evaluation:
    return evaluate(analog, DATA, eta=[0.05, 0.2], instances=30, progress=False)


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
def test_tables_are_as_wide_as_there_is_room(
    found: Summary, curve: Evaluation, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for shown in (str(found), str(curve)):
        assert max(map(len, shown.splitlines())) <= min(columns, 160)
    assert "Linear" not in str(found)
    if columns >= 80:
        assert re.search(r"^ *0 +linear +8x6 ", str(found), re.MULTILINE)
    assert "kept digital" in str(found)


def test_without_a_terminal_no_line_is_over_120(
    found: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, str(found).splitlines())) <= 120


def test_what_all_regions_have_in_common_is_said_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    found = summary(analogize(model, "pcm_4bit", example_inputs=torch.ones(1, 4)))
    shown = " ".join(str(found).split())
    assert shown.count("eta 0.017") == 1
    assert shown.count("uncalibrated") == 2  # of the DACs, and of the ADCs


def cells(shown: str) -> list[list[str]]:
    """The texts of an HTML fragment's tables, by row."""
    root = ElementTree.fromstring(f"<div>{shown}</div>")
    return [["".join(c.itertext()) for c in row] for row in root.iter("tr")]


def test_a_summary_in_a_notebook_has_every_region_and_every_reason(found: Summary) -> None:
    head, region, left_head, left = cells(found._repr_html_())
    assert dict(zip(head, region, strict=True))["weight"] == "8x6"
    assert left_head[:3] == ["product", "operator", "reason"]
    assert left[0] == "2"
    assert "kept digital" in left[2]
    assert found.headline in found._repr_html_()


def test_an_evaluation_in_a_notebook_has_its_numbers(curve: Evaluation) -> None:
    head, *rows = cells(curve._repr_html_())
    assert head == ["eta", "chips", "mean", "std", "95 % interval"]
    assert [row[0] for row in rows] == ["0.05", "0.2"]
    assert [float(row[2]) for row in rows] == pytest.approx(
        [level.mean or 0 for level in curve.levels], rel=1e-4
    )
    assert "accuracy on pcm_4bit, 40 samples" in curve._repr_html_()
    assert repr(curve) == "<Evaluation of accuracy on pcm_4bit, 40 samples, seed 0: 2 levels>"


def test_a_chip_in_a_notebook_has_its_regions_and_no_matrix() -> None:
    model = nn.Sequential(nn.Linear(300, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    analog = analogize(model, "pcm_joshi2020", [torch.randn(50, 300)])
    program(analog, 0)
    chip = read_chip(analog, name="mine")
    head, *rows = cells(chip._repr_html_())
    assert head[:5] == ["region", "groups", "rows", "columns", "tiles"]
    assert [row[:5] for row in rows] == [["0", "1", "300", "4", "1"], ["2", "1", "4", "3", "1"]]
    assert "chip mine, target pcm_joshi2020" in chip._repr_html_()
    assert repr(chip) == "<chip mine, target pcm_joshi2020, 2 regions; print() lists them>"
    assert list(chip.to_pandas()["dead cells"]) == [0, 0]


def test_a_notebook_without_widgets_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Console(force_jupyter=True, file=StringIO())
    for module, expected in (("json", True), ("no_such_module_at_all", False)):
        monkeypatch.setattr(progress, "find_spec", lambda _, name=module: find_spec(name))
        assert progress.can_show_bar(notebook) is expected
    assert not progress.can_show_bar(Console(file=StringIO()))


@pytest.mark.parametrize("name", names())
def test_a_target_in_a_notebook_says_what_the_command_line_says(name: str) -> None:
    target = load_target(name)
    said = dict(cells(target._repr_html_())[1:])
    assert set(said) >= {"weights", "noise", "DAC", "ADC", "array", "digital"}
    assert target.name in target._repr_html_()
    assert len(repr(target)) < 400


def test_an_analysis_shows_rows_and_a_short_repr(analog: nn.Module) -> None:
    result = bias_variance(analog, DATA, eta=[0.1], instances=50)
    assert len(result.rows[0].accuracies) == 50
    assert len(repr(result)) < 900
    assert "<50 values>" in repr(result)
    head, row = cells(result._repr_html_())
    assert head[0] == "eta"
    assert row[0] == "0.1"


def test_a_figure_shows_itself(curve: Evaluation) -> None:
    shown = curve.plot()._repr_mimebundle_()["image/svg+xml"]
    root = ElementTree.fromstring(shown)
    words = " ".join("".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "accuracy" in words  # text stays text
    assert "95 % interval" in words


def test_a_drawing_without_a_path_is_a_picture(found: Summary) -> None:
    drawn = found.draw()
    assert isinstance(drawn, Drawing)
    assert ElementTree.fromstring(drawn._repr_svg_()).tag.endswith("svg")
    assert len(repr(drawn)) < 80


def test_completion_offers_the_results_own_names(curve: Evaluation) -> None:
    offered = [name for name in dir(curve) if not name.startswith("_")]
    assert {"levels", "plot", "save", "to_rows", "to_pandas", "to_csv"} <= set(offered)
    assert not [name for name in offered if name.startswith("model_")]
    assert "parse_raw" not in offered


def test_rows_go_to_csv_and_pandas(found: Summary, curve: Evaluation) -> None:
    assert [row["region"] for row in csv.DictReader(StringIO(found.to_csv()))] == ["0", "2"]
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency")
    table = curve.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["eta"]) == [0.05, 0.2]


def test_texts_are_escaped() -> None:
    assert cells(html([{"<b>": "<script>"}], "<i>")) == [["<b>"], ["<script>"]]
    assert "<script>" not in html([{"<b>": "<script>"}])
    assert csv_text([]) == ""


def test_a_target_of_ones_own_has_a_short_repr() -> None:
    assert "no noise" in repr(Target(name="mine"))
