"""Fits of programming noise: known curves are found again, bad files are named by row."""

import statistics
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analogize.cli import app
from analogize.devices.fit import fit_programming_noise
from analogize.errors import TargetError
from analogize.targets.load import load_target
from analogize.targets.noise import ProgrammingNoise

LEVELS = np.linspace(0.0, 25.0, 9)
TRUE = (0.26348, 1.9650, -1.1731)  # aihwkit's fit to Joshi et al.
READINGS = 4000


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    draw = np.random.default_rng(3)
    path = tmp_path / "chip_a.csv"
    with path.open("w") as stream:
        stream.write("target,measured,wafer\n")
        for level in LEVELS:
            sigma = np.polynomial.polynomial.polyval(level / 25, TRUE)
            for value in draw.normal(level + 0.1, sigma, READINGS):
                stream.write(f"{level},{value:.6f},7\n")
    return path


def test_a_known_curve_is_found(measurements: Path) -> None:
    fit = fit_programming_noise(measurements)

    # Each spread is known to 1 / sqrt(2 * 3999) = 1.1 %; the fit averages nine of them.
    exact = np.polynomial.polynomial.polyval(LEVELS / 25, TRUE)
    assert np.abs(fit.sigma(LEVELS) / exact - 1).max() < 4 * 0.0112
    # Six degrees of freedom: the reduced chi-square stays below 3.8 with 99.9 %.
    assert 0.05 < fit.chi_square < 3.8
    # The bias is known to 1.06 / sqrt(4000) = 0.017 at worst.
    assert np.abs(fit.bias - 0.1).max() < 4 * 0.017


def test_the_command_writes_a_target(measurements: Path, tmp_path: Path) -> None:
    out = tmp_path / "chip_a.yaml"
    result = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--out", str(out)])
    assert result.exit_code == 0, result.output

    target = load_target(out)
    (noise,) = target.noise
    assert target.name == "chip_a"
    assert isinstance(noise, ProgrammingNoise)
    assert target.conductance is not None
    assert (target.conductance.g_min, target.conductance.g_max) == (0.0, 25.0)
    assert noise.sigma.coefficients == fit_programming_noise(measurements).coefficients  # type: ignore[union-attr]
    again = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--out", str(out)])
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_the_command_prints_a_target(measurements: Path) -> None:
    result = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--name", "mine"])
    assert result.exit_code == 0
    assert "name: mine" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: there is no column 'target'"),
        ("target,read\n1,2\n", "row 1: there is no column 'measured'.*holds target, read"),
        ("target,measured\n1,2\n1,x\n", "row 3, column 'measured': 'x' is no conductance"),
        ("target,measured\n1,2\n-1,2\n", "row 3, column 'target': '-1' .* at least 0"),
        ("target,measured\n1\n", "row 2, column 'measured': ''"),
        ("target,measured\n", "no reading at a conductance above 0"),
        ("target,measured\n1,2\n1,3\n1,4\n", "degree 2 needs readings at 3 target"),
        ("target,measured\n1,1\n2,2\n3,3\n", r"1 reading\(s\) at the target 1"),
        (
            "target,measured\n" + "".join(f"{t},{t}\n" * 3 for t in (1, 2, 3)),
            "all readings at the target 1 are equal",
        ),
    ],
)
def test_bad_measurements(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(TargetError, match=message):
        fit_programming_noise(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot read the measurements"):
        fit_programming_noise(tmp_path / "none.csv")


def test_the_spread_is_the_samples_deviation_about_its_mean(tmp_path: Path) -> None:
    """With few readings n and n - 1 differ most: by 22 % at three."""
    groups = {2.0: (1.5, 2.0, 3.5), 8.0: (7.0, 8.5, 9.0), 20.0: (18.0, 21.0, 24.0)}
    rows = [f"{level},{value}" for level, values in groups.items() for value in values]
    (tmp_path / "few.csv").write_text("\n".join(["target,measured", *rows]))
    fit = fit_programming_noise(tmp_path / "few.csv", 1)
    expected = [statistics.stdev(values) for values in groups.values()]
    assert fit.spread.tolist() == pytest.approx(expected, rel=1e-12)
