"""The report: complete, escaped, self-contained, on every kind of target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from analogize import Recalibration, analogize, evaluate
from analogize.analysis.converter_use import converter_use
from analogize.cli import app
from analogize.errors import ExportError
from analogize.models import DigitsNet
from analogize.report.report import write_report

HEADINGS = [
    "Robustness: accuracy",
    "Summary",
    "Graph",
    "Bias and variance",
    "Mutual information",
    "Sensitivity of the regions",
    "Converters: ranges and clipping",
    "How this was made",
    "Glossary",
]


def test_holds_every_part_and_loads_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", text) == HEADINGS
    sources = re.findall(r'src="([^"]*)"', text)
    # Four figures of results; a DAC and an ADC for each of four regions.
    assert len(sources) == 12
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    # Data, and the script that sorts tables.
    assert re.findall("<script[^>]*>", text) == [
        '<script type="application/json" id="data">',
        "<script>",
    ]
    assert text.count("<svg") == 1
    assert all(name in text for name in ("conv1", "conv2", "fc1", "fc2"))
    assert "accuracy at the target&#x27;s own noise" in text
    assert text.count("% clipped") == 2 * 8  # of each converter, as text and for a screen reader


def test_the_same_results_make_the_same_file(tmp_path: Path) -> None:
    x = torch.randn(20, 1, 8, 8)
    data = [(x, torch.arange(20) % 10)]
    model = analogize(DigitsNet(), "pcm_4bit", data)
    for name in "ab":
        found = evaluate(model, data, eta=[0, 0.1], instances=3, progress=False)
        write_report(tmp_path / name, model, evaluation=found)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_says_what_every_chip_was_given(tmp_path: Path) -> None:
    data = [(torch.randn(20, 1, 8, 8), torch.arange(20) % 10)]
    model = analogize(DigitsNet(), "pcm_4bit", data)
    remedy = Recalibration(data, model)
    for recalibration, says in ((None, 0), (remedy, 1)):
        found = evaluate(model, data, instances=2, progress=False, recalibration=recalibration)
        write_report(tmp_path / "r.html", model, evaluation=found)
        text = " ".join((tmp_path / "r.html").read_text().split())
        words = f"Before it was measured, every chip had: {remedy.settings}."
        assert text.count(words) == says


@pytest.mark.parametrize(
    ("target", "times", "figures"),
    [
        ("pcm_joshi2020", ["0 s", "1 hour", "1 day", "1 month", "1 year"], 4),
        ("reram_wan2022", ["0 s", "1 hour", "1 day", "2 days"], 4),
        ("isaac", [], 2),  # it draws nothing: no curve, and no region that costs anything
    ],
)
def test_device_targets(
    target: str, times: list[str], figures: int, digits_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    arguments = f"report analogize.models:DigitsNet --dataset digits --target {target}"
    files = ["--weights", str(digits_weights), "--out", str(out)]
    more = ["--instances", "4", "--limit", "40", "--samples", "10", "--calibration-batches", "2"]
    result = CliRunner().invoke(app, [*arguments.split(), *files, *more])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", text) == HEADINGS
    assert text.count("<img") == figures + 8
    robustness = text[text.index("<h2>Robustness") : text.index("<h2>Bias")]
    rows = re.findall(r"<tr><td[^>]*>target&#39;s own</td>(.*?)</tr>", robustness)
    assert len(rows) == max(1, len(times))
    assert all(f">{time}</td>" in row for time, row in zip(times, rows, strict=False))
    assert ("No region is noisy" in text) == ("chips are alike" in text) == (target == "isaac")


def test_times_and_levels_of_ones_own(digits_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    common = ["report", "analogize.models:DigitsNet", "--dataset", "digits", "--out", str(out)]
    common += ["--instances", "4", "--limit", "30", "--samples", "10", "--calibration-batches", "2"]
    run = CliRunner().invoke
    found = run(app, [*common, "--target", "reram_wan2022", "--drift-time", "1 week"])
    assert found.exit_code == 1
    assert "cannot be read 1 week after programming" in " ".join(found.stderr.split())
    found = run(app, [*common, "--target", "pcm_joshi2020", "--eta", "much"])
    assert found.exit_code == 1
    assert "must be numbers or 'target'" in " ".join(found.stderr.split())
    assert not out.exists()


def test_names_are_escaped(tmp_path: Path) -> None:
    model = analogize(nn.Sequential(nn.Linear(2, 2)), "ideal", example_inputs=torch.ones(1, 2))
    write_report(tmp_path / "r.html", model, title="<b>&", command="a <script>alert(1)</script>")
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert "<h1>&lt;b&gt;&amp;</h1>" in text
    with pytest.raises(ExportError, match="cannot write"):
        write_report(tmp_path / "none" / "r.html", model)


def test_converter_use_counts_what_is_clipped() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 1001).reshape(-1, 1)
    layer = nn.Linear(1, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0], [1.0]]))
    model = analogize(nn.Sequential(layer), "pcm_8bit", [x * 0.5])
    dac, adc = converter_use(model, [(x, torch.zeros(1001))])
    assert (dac.name, dac.bits, sum(dac.counts)) == ("DAC", 8, 1001)
    assert dac.edges == (-1.0, 1.0)
    # The range reaches 0.499, 99.8 % of half of the values.
    assert dac.clipped == pytest.approx(0.501, abs=0.002)
    assert adc.clipped == pytest.approx(0.501, abs=0.01)


def test_where_tiles_convert_their_own_sums_these_are_looked_at() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 600)
    data = [(x, torch.zeros(50))]
    # 600 rows on tiles of 512: two partial sums for each of three outputs.
    model = analogize(nn.Sequential(nn.Linear(600, 3)), "pcm_joshi2020", data)
    _, adc = converter_use(model, data)
    assert sum(adc.counts) == 2 * 3 * 50
    # The range is that of the calibration on the same data: percentiles 0.1 and 99.9.
    assert adc.clipped < 0.02


def test_wrong_levels_are_refused() -> None:
    result = CliRunner().invoke(
        app, ["report", "analogize.models:DigitsNet", "--dataset", "digits", "--eta", "x"]
    )
    assert result.exit_code == 1
    assert "--eta 'x' must be numbers or 'target'" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "none/report.html"], "name a file in an existing folder"),
        (["--instances", "3"], "--instances is 3; the estimates need at least 4 chips"),
        (["--target", "pcm_joshi2020", "--drift-time", "soon"], "'soon' is no time"),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_begins(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["report", "analogize.models:DigitsNet", "--dataset", "digits", "--limit", "20"]
    result = CliRunner().invoke(app, [*common, *arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
