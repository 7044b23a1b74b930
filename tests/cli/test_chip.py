"""``analogize chip``: out of a saved model into files, and shown."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from analogize import analogize, load_chip, program, read_chip, save
from analogize.cli import app
from analogize.errors import ChipError

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


HEATED = """
schema: 1
extends: pcm_joshi2020
name: heated
noise:
  - {model: programming, sigma: {kind: polynomial, coefficients: [0.3]}}
  - {model: temperature, activation: {kind: polynomial, coefficients: [0.1]}, reference: 300.0,
     min: 250.0, max: 400.0}
"""


def test_conditions_reach_the_exported_chip_and_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).eval()
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "heated.yaml").write_text(HEATED)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    where = [f"{tmp_path}/net.py:net", "--weights", f"{tmp_path}/net.pt"]
    command = ["chip", "export", *where, "--target", f"{tmp_path}/heated.yaml", "--seed", "3"]
    run = CliRunner().invoke

    out = tmp_path / "hot.npz"
    result = run(app, [*command, str(out), "--condition", "temperature=350"])
    assert result.exit_code == 0, result.output
    analog = analogize(model, str(tmp_path / "heated.yaml"))
    program(analog, 3, conditions={"temperature": 350.0})
    chip, expected = load_chip(out), read_chip(analog)["0"].conductances
    assert chip["0"].conductances is not None
    assert expected is not None
    assert (chip["0"].conductances == expected).all()
    assert chip["0"].settings["reading"]["conditions"] == {"temperature": 350.0}
    shown = run(app, ["chip", "show", str(out)])
    assert "temperature 350" in shown.stdout, shown.output
    # The same chip at room temperature is another one; the file's is what it was.
    program(analog, 3)
    cold = read_chip(analog)["0"].conductances
    assert cold is not None
    assert (cold != expected).any()
    with pytest.raises(ChipError, match="leave conditions out"):
        program(analog, chip, conditions={"temperature": 300.0})
    program(analog, chip)

    for wrong, says in (
        (["--condition", "temperature"], "NAME=VALUE"),
        (["--condition", "temperature=warm"], "NAME=VALUE"),
        (["--condition", "=3"], "no name"),
        (["--condition", "temperature=3", "--condition", "temperature=4"], "twice"),
        (["--condition", "humidity=3"], "none of its noise models depends on it"),
    ):
        refused = run(app, [*command, str(tmp_path / "none.npz"), *wrong])
        assert refused.exit_code == 1
        assert says in " ".join(refused.stderr.split()), refused.stderr
