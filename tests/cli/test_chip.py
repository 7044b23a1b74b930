"""``analogize chip``: out of a saved model into files, and shown."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from analogize import analogize, load_chip, program, read_chip, save
from analogize.cli import app

FACTORY = """
from torch import nn


def net():
    return nn.Sequential(nn.Linear(6, 4)).eval()
"""


@pytest.mark.parametrize("form", ["saved", "state"])
def test_export_and_show(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).eval()
    analog = analogize(model, "pcm_joshi2020", [torch.randn(8, 6)])
    (tmp_path / "net.py").write_text(FACTORY)
    file = tmp_path / "net.pt"
    if form == "saved":
        file = save(analog, tmp_path / "net.safetensors")
    else:
        torch.save(model.state_dict(), file)
    command = ["chip", "export", f"{tmp_path}/net.py:net", "--weights", str(file)]
    run = CliRunner().invoke

    for name in ("chip.npz", "chip"):
        out = tmp_path / name
        result = run(app, [*command, str(out), "--seed", "3"])
        assert result.exit_code == 0, result.output
        program(analog, 3)
        expected = read_chip(analog)["0"].conductances
        found = load_chip(out)["0"].conductances
        assert expected is not None
        assert found is not None
        assert (found == expected).all()

        shown = run(app, ["chip", "show", str(out)])
        assert shown.exit_code == 0, shown.output
        assert "target pcm_joshi2020" in shown.stdout
        assert "0: 1 x 6 x 4 on 1 tile(s)" in shown.stdout

    again = run(app, [*command, str(tmp_path / "chip.npz")])
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert run(app, ["chip", "show", str(tmp_path / "no.npz")]).exit_code == 1
