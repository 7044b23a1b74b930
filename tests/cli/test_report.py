"""The report: complete, escaped, self-contained, and rendered by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from analogize import analogize
from analogize.cli import app
from analogize.converter_use import converter_use
from analogize.data import load_dataset
from analogize.errors import ExportError
from analogize.models import DigitsNet
from analogize.report import write_report

HEADINGS = [
    "Summary",
    "Graph",
    "Robustness: accuracy",
    "Bias and variance",
    "Mutual information (nats)",
    "Sensitivity of the regions",
    "Converters: ranges and clipping",
    "How this was made",
]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, y in load_dataset("digits", None, train=True).batches(128):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "weights.pt")
    out = folder / "report.html"
    arguments = "report analogize.models:DigitsNet --dataset digits --eta 0,0.05 --instances 4"
    files = ["--weights", str(folder / "weights.pt"), "--out", str(out)]
    more = ["--limit", "100", "--samples", "20"]
    result = CliRunner().invoke(app, [*arguments.split(), *files, *more])
    assert result.exit_code == 0, result.output
    return out


def test_holds_every_part_and_loads_nothing(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", text) == HEADINGS
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in text
    assert text.count("<svg") == 1
    assert all(name in text for name in ("conv1", "conv2", "fc1", "fc2"))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_renders_it(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "report.png"
    common = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
    home = f"--user-data-dir={tmp_path / 'profile'}"
    seen = subprocess.run(
        [*common, home, "--dump-dom", report.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert re.findall("<h2>(.*?)</h2>", seen) == HEADINGS
    subprocess.run(
        [*common, home, f"--screenshot={shot}", "--window-size=1200,3000", report.as_uri()],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert shot.stat().st_size > 50_000  # a blank page of this size compresses to a tenth


def test_names_are_escaped(tmp_path: Path) -> None:
    model = analogize(nn.Sequential(nn.Linear(2, 2)), "ideal", example_inputs=torch.ones(1, 2))
    write_report(tmp_path / "r.html", model, title="<b>&", command="a <script>alert(1)</script>")
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert "<h1>&lt;b&gt;&amp;</h1>" in text
    with pytest.raises(ExportError, match="cannot write"):
        write_report(tmp_path / "none" / "r.html", model)


def test_converter_use_counts_what_is_clipped() -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 1001).reshape(-1, 1)
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    model = analogize(nn.Sequential(layer), "pcm_8bit", [x * 0.5])
    dac, adc = converter_use(model, [(x, torch.zeros(1001))])
    assert (dac.name, dac.bits, sum(dac.counts)) == ("DAC", 8, 1001)
    assert dac.edges == (-1.0, 1.0)
    # The range reaches 0.499, 99.8 % of half of the values.
    assert dac.clipped == pytest.approx(0.501, abs=0.002)
    assert adc.clipped == pytest.approx(0.501, abs=0.01)


def test_wrong_levels_are_refused() -> None:
    result = CliRunner().invoke(
        app, ["report", "analogize.models:DigitsNet", "--dataset", "digits", "--eta", "x"]
    )
    assert result.exit_code == 1
    assert "--eta 'x' must be numbers" in " ".join(result.stderr.split())
