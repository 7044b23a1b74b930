"""Fits of programming noise: known curves are found again, bad files are named by row."""

import csv
import json
import statistics
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from analogize import analogize, program
from analogize.cli import app
from analogize.crossbar.ops import operators
from analogize.devices.curves import evaluate
from analogize.devices.fit import fit_programming_noise
from analogize.devices.fit_over_time import fit_over_time
from analogize.devices.measurements import read_measurements
from analogize.errors import TargetError
from analogize.targets import Target
from analogize.targets.load import load_target
from analogize.targets.noise import DriftNoise, ProgrammingNoise, RelaxationNoise

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
    assert noise.bias is not None, "0.1 is six times its standard error"
    assert noise.sigma.coefficients == fit_programming_noise(measurements).coefficients  # type: ignore[union-attr]
    again = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--out", str(out)])
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_the_command_prints_a_target(measurements: Path) -> None:
    result = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--name", "mine"])
    assert result.exit_code == 0
    assert "name: mine" in result.stdout


def test_json_and_csv_are_all_that_the_command_prints(measurements: Path) -> None:
    run = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--json"])
    told = json.loads(run.stdout)
    assert Target.model_validate(told["target"]).name == measurements.stem
    (fit,) = told["fits"]
    table = CliRunner().invoke(app, ["targets", "fit", str(measurements), "--csv"]).stdout
    rows = list(csv.DictReader(StringIO(table)))
    assert [float(row["spread"]) for row in rows] == [row["spread"] for row in fit["rows"]]
    assert all(row["source"] == fit["source"] for row in rows)


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
        (
            "target,measured\n" + "".join(f"{t},{t + k}\n" for t in (1, 2) for k in range(3)),
            "degree 2 needs readings at 3 target conductances at least, and the file has 2",
        ),
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


def write(path: Path, header: str, rows: list[tuple[object, ...]], separator: str = ",") -> Path:
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def samples(count: int = 400) -> list[tuple[object, ...]]:
    draw = np.random.default_rng(0)
    return [(g, draw.normal(g, 0.5)) for g in (0.0, 10.0, 20.0) for _ in range(count)]


@pytest.mark.parametrize(
    ("header", "separator", "factor", "unit"),
    [
        ("target,measured", ",", 1.0, "uS"),
        ("Target (uS); Measured (uS)", ";", 1.0, "uS"),
        ("target [nS]\tmeasured [nS]", "\t", 1e3, "uS"),
        ("target (S),measured (S)", ",", 1e-6, "uS"),
        ("target (µS),measured (S)", ",", 1.0, "uS"),
        ("target (pA),measured (pA)", ",", 1e3, "nA"),
    ],
)
def test_units_of_the_header(
    header: str, separator: str, factor: float, unit: str, tmp_path: Path
) -> None:
    second = 1e-6 if "µ" in header else factor
    rows: list[tuple[object, ...]] = [(t * factor, m * second) for t, m in samples()]  # type: ignore[operator]
    fit = fit_programming_noise(write(tmp_path / "m.csv", header, rows, separator), 0)
    assert fit.unit == unit
    assert fit.levels == pytest.approx([0.0, 10.0, 20.0])
    # 1200 readings: 5 / sqrt(2400) = 10 %.
    assert fit.coefficients[0] == pytest.approx(0.5, rel=0.1)
    assert not fit.bias_coefficients


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("target (kS),measured (kS)", "the unit 'kS' is unknown; allowed are S, mS, uS"),
        ("target (uS),measured", "give the units of target and measured, or of neither"),
        ("target (uS),measured (nA)", "'nA' cannot be given in uS"),
        ("target,measured,time (h)", "times are in seconds, not 'h'"),
    ],
)
def test_headers_that_are_refused(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=message):
        fit_programming_noise(write(tmp_path / "m.csv", header, [(1, 1, 1)]))


def test_siemens_are_not_taken_for_microsiemens(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(t * 1e-6, m * 1e-6) for t, m in samples()]  # type: ignore[operator]
    path = write(tmp_path / "m.csv", "target,measured", rows)
    with pytest.raises(TargetError, match=r"little for microsiemens; say the unit.*--unit"):
        fit_programming_noise(path, 0)


def over_time(path: Path, named: bool) -> Path:
    """Drift exponents N(0.06, 0.01), 1 % read noise, 0.4 of programming, at five times."""
    draw, rows = np.random.default_rng(1), []
    for level in (5.0, 15.0, 25.0):
        for device in range(300):
            programmed, nu = draw.normal(level + 0.2, 0.4), draw.normal(0.06, 0.01)
            for time in (20.0, 200.0, 2e3, 2e4, 2e5):
                read = programmed * (time / 20) ** -nu * (1 + draw.normal(0, 0.01))
                row = (level, read, time)
                rows.append((*row, f"{level}-{device}") if named else row)
    return write(path, "target,measured,time" + (",device" if named else ""), rows)


def test_drift_of_devices_that_were_followed(tmp_path: Path) -> None:
    fit = fit_over_time(read_measurements(over_time(tmp_path / "m.csv", named=True)), 0)
    assert fit.drift is not None
    # 300 exponents a level: five standard errors, 5 0.01 / sqrt(300), and 5 / sqrt(600) of 0.01.
    assert fit.drift.mean == pytest.approx(np.full(3, 0.06), abs=0.003)
    assert fit.drift.std == pytest.approx(np.full(3, 0.01), rel=0.21)
    assert fit.drift.read == pytest.approx(0.01, rel=5 / (2 * 2700) ** 0.5)

    target = fit.to_target("mine")
    programming, drift, read = target.noise
    assert isinstance(drift, DriftNoise)
    assert (drift.t0, drift.until) == (20.0, 2e5 - 20)
    assert isinstance(programming, ProgrammingNoise)
    assert programming.bias is not None
    assert read.model == "read"
    # The fitted target does on a layer what the devices did: 0.06 ln(1e4) of the weights are lost.
    layer = nn.Linear(200, 200, bias=False)
    analog = analogize(layer, target)
    sums = []
    for time in (0.0, 2e5 - 20):
        program(analog, 0, drift_time=time)
        (op,) = operators(analog)
        assert op.array.chip is not None
        sums.append(float((op.array.chip * layer.weight.detach().sign()).sum()))
    assert sums[1] / sums[0] == pytest.approx(1e4**-0.06, rel=0.05)


def test_the_plot_shows_every_level_and_the_fit_over_all_of_them(tmp_path: Path) -> None:
    fit = fit_programming_noise(write(tmp_path / "m.csv", "target,measured", samples()), 1)
    above, below = fit.plot().axes
    fitted = above.lines[[line.get_label() for line in above.lines].index("its fit")]
    at = fitted.get_xdata()
    assert (at[0], at[-1]) == (fit.levels[0], fit.levels[-1])
    assert fitted.get_ydata() == pytest.approx(fit.sigma(at))
    points = next(line for line in below.lines if len(line.get_xdata()) == len(fit.levels))
    assert list(points.get_xdata()) == list(fit.levels)
    # Residuals in standard errors, as chi-square has them, around a line at zero.
    freedom = len(fit.levels) - 2
    assert np.square(points.get_ydata()).sum() == pytest.approx(fit.chi_square * freedom)
    assert [0, 0] in [list(line.get_ydata()) for line in below.lines]
    _, bias = above.containers
    (spans,) = bias.lines[2]
    ends = np.array(spans.get_segments())[:, :, 1]
    assert ends.mean(1) == pytest.approx(fit.bias)
    assert np.diff(ends)[:, 0] == pytest.approx(2 * fit.spread / np.sqrt(fit.counts))


@pytest.mark.parametrize(("bias", "curves"), [((), 1), ((0.1, 0.2), 2)])
def test_the_plot_draws_a_fit_of_the_bias_where_there_is_one(
    bias: tuple[float, ...], curves: int, tmp_path: Path
) -> None:
    fit = fit_programming_noise(write(tmp_path / "m.csv", "target,measured", samples()), 1)
    above, _ = replace(fit, bias_coefficients=bias).plot().axes
    fitted = [line for line in above.lines if line.get_label() == "its fit"]
    assert len(fitted) == curves
    if bias:
        expected = 0.1 + 0.2 * np.asarray(fitted[1].get_xdata()) / fit.reference
        assert fitted[1].get_ydata() == pytest.approx(expected)


def test_chi_square_is_reduced_by_what_was_fitted(tmp_path: Path) -> None:
    """Three levels and two coefficients leave one degree of freedom."""
    fit = fit_programming_noise(write(tmp_path / "m.csv", "target,measured", samples()), 1)
    # Of 400 readings a standard deviation is known to a share of 1 / sqrt(2 * 399).
    residuals = (fit.spread - fit.sigma(fit.levels)) / fit.spread * np.sqrt(2 * 399)
    assert fit.chi_square == pytest.approx(float((residuals**2).sum()))


def test_relaxation_of_devices_that_were_not_named(tmp_path: Path) -> None:
    path, out = over_time(tmp_path / "m.csv", named=False), tmp_path / "mine.yaml"
    figure = tmp_path / "fit.png"
    command = ["targets", "fit", str(path), "--degree", "1", "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--plot", str(figure)])
    assert result.exit_code == 0, result.output
    assert figure.stat().st_size > 1000

    (noise,) = load_target(out).noise
    assert isinstance(noise, RelaxationNoise)
    assert [point.time for point in noise.points] == [20.0, 200.0, 2e3, 2e4, 2e5]
    last = noise.points[-1]
    assert last.bias is not None
    # The mean at 25 uS after 2e5 s: 25.2 exp(-0.06 L + 0.01^2 L^2 / 2) - 25 with L = ln 1e4.
    found = float(evaluate(last.bias, torch.tensor(25.0)))
    log = np.log(1e4)
    assert found == pytest.approx(25.2 * np.exp(-0.06 * log + 5e-5 * log**2) - 25, abs=0.5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(5, 5, 1, "a"), (5, 6, 1, "b"), (5, 7, 1, "c")], "all readings are of the time 1 s"),
        ([(5, 5 + k, t, "abc"[k]) for t in (0, 9) for k in range(3)], "a time above 0"),
        ([(5, 5 + k, t, "a") for t in (1, 9) for k in range(3)], "device 'a' has several targets"),
        ([(5, k, t, f"{t}{k}") for t in (1, 9) for k in range(3)], "no two devices"),
    ],
)
def test_times_that_tell_nothing(
    rows: list[tuple[object, ...]], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.csv", "target,measured,time,device", rows)
    with pytest.raises(TargetError, match=message):
        fit_over_time(read_measurements(path), 0)
