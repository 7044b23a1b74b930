"""A report that several test files look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from analogize.cli import app
from analogize.data import load_dataset
from analogize.models import DigitsNet


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DigitsNet after one epoch."""
    torch.manual_seed(0)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, y in load_dataset("digits", None, train=True).batches(128):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def report(digits_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``analogize report`` of a DigitsNet on the default target."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    arguments = "report analogize.models:DigitsNet --dataset digits --eta target,0,0.05"
    files = ["--weights", str(digits_weights), "--out", str(out)]
    more = ["--instances", "4", "--limit", "100", "--samples", "20"]
    result = CliRunner().invoke(app, [*arguments.split(), *files, *more])
    assert result.exit_code == 0, result.output
    return out
