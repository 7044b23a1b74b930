"""The device targets: their figures, at both ends of their validity, on a programmed layer."""

import math
import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.cells import Reading, read_cells
from analogize.devices.curves import evaluate
from analogize.errors import ChipError
from analogize.targets import load_target, names
from analogize.targets.load import sources
from analogize.targets.noise import (
    DriftNoise,
    OneOverFNoise,
    ProgrammingNoise,
    ReadNoise,
    RelaxationNoise,
    depends_on_time,
)
from analogize.targets.spec import Converter, Target

DEVICES = (
    "afm_2025_pcm",
    "isaac",
    "pcm_hermes",
    "pcm_joshi2020",
    "reram_cmo",
    "reram_milo2021",
    "reram_wan2022",
    "sonos_tcas2022",
)
DAY = 86400.0
_WORDS = ("schema", "extends", "name", "description", '  - "', "  pairs", "  - model")
YEAR = 365 * DAY
# The end of the times that each source's figures hold for; None: they hold for time 0 alone.
LATEST = {
    "afm_2025_pcm": None,
    "isaac": None,
    "pcm_hermes": YEAR,
    "pcm_joshi2020": YEAR,
    "reram_cmo": 10 * YEAR,
    "reram_milo2021": None,
    "reram_wan2022": 2 * DAY,
    "sonos_tcas2022": 5 * DAY,
}
PAPER = re.compile(r".+ et al\., .+ \((19|20)\d\d\), (doi:10\.\d{4,}/\S+|https://\S+)(: .+)?")
TOOL = re.compile(
    r"(aihwkit|CrossSim|MNSIM 2\.0|CiMLoop|analog-foundation-models), .+ \(https://github\.com/\S+\)"
)


def chip(name: str | Target, **reading: Any) -> torch.Tensor:
    torch.manual_seed(0)
    # Converters are not calibrated: only the array is looked at.
    analog = analogize(nn.Linear(64, 64, bias=False), name)
    program(analog, 0, **reading)
    (op,) = operators(analog)
    assert op.array.chip is not None
    return op.array.chip


def sigma_at(model: ProgrammingNoise | RelaxationNoise, conductance: float, time: int = 0) -> float:
    curve = model.sigma if isinstance(model, ProgrammingNoise) else model.points[time].sigma
    return float(evaluate(curve, torch.tensor(conductance, dtype=torch.float64)))


@pytest.mark.parametrize("name", [name for name in names() if name != "ideal"])
def test_every_number_has_a_source_on_its_line_or_on_a_line_above(name: str) -> None:
    for source in sources(name):
        explained, covered = "", False
        for line in source.text.splitlines():
            indent = line[: len(line) - len(line.lstrip())]
            if "#" in line:
                # An explanation covers the line after it, and the lines indented below its own.
                explained, covered = indent, line.lstrip().startswith("#")
                continue
            if any(character.isdigit() for character in line) and ":" in line and not covered:
                is_text = line.startswith(_WORDS)
                nested = len(indent) > len(explained)
                assert is_text or nested or "valid" in line or "reference" in line, line
            covered = False


@pytest.mark.parametrize("name", [name for name in names() if name != "ideal"])
def test_every_reference_has_title_year_and_identifier(name: str) -> None:
    references = load_target(name).references
    assert any(PAPER.fullmatch(reference) for reference in references)
    for reference in references:
        assert PAPER.fullmatch(reference) or TOOL.fullmatch(reference), reference


def test_the_devices_are_all_walked() -> None:
    having = {name for name in names() if load_target(name).conductance is not None}
    assert having == set(DEVICES) == set(LATEST)


@pytest.mark.parametrize("name", DEVICES)
def test_times_up_to_the_end_are_read_and_later_ones_refused(name: str) -> None:
    latest = LATEST[name]
    assert bool(torch.isfinite(chip(name)).all())
    if latest is not None:
        assert bool(torch.isfinite(chip(name, drift_time=latest)).all())
    with pytest.raises(ChipError, match=r"was measured up to|it holds up to|depends on time"):
        chip(name, drift_time=(latest or 0.0) + 1)


@pytest.mark.parametrize("name", names())
def test_a_time_at_which_nothing_has_changed_is_refused(name: str) -> None:
    if any(map(depends_on_time, load_target(name).noise)):
        assert not chip(name, drift_time="1 day").equal(chip(name))
        return
    with pytest.raises(ChipError, match=f"'{name}' is the same 1 day after .* 'pcm_joshi2020'"):
        chip(name, drift_time="1 day")


@pytest.mark.parametrize("name", names())
def test_another_cycle_is_another_programming(name: str) -> None:
    """Of noise that is drawn at programming; a target without any gives the same chip."""
    noisy = any(not isinstance(model, ReadNoise) for model in load_target(name).noise)
    assert chip(name, cycle=1).equal(chip(name)) != noisy
    assert chip(name, cycle=1).equal(chip(name, cycle=1))


@pytest.mark.parametrize("name", [name for name in DEVICES if name != "isaac"])
def test_conductances_that_were_not_measured_are_refused(name: str) -> None:
    target = load_target(name).model_dump(by_alias=True)
    mapping, (first, *_) = target["conductance"], load_target(name).noise
    assert isinstance(first, ProgrammingNoise | RelaxationNoise)
    ends = first.valid or first.points[0].valid  # type: ignore[union-attr]
    assert ends is not None
    mapping |= {"g_min": ends.min, "g_max": ends.max}
    assert bool(torch.isfinite(chip(Target.model_validate(target))).all())

    beyond = [mapping | {"g_max": ends.max * 1.01}]
    if ends.min:
        beyond.append(mapping | {"g_min": ends.min * 0.99})
    for wrong in beyond:
        with pytest.raises((ValidationError, ChipError), match="hold from"):
            chip(Target.model_validate(target | {"conductance": wrong}))


def test_sonos_above_1800_na_can_be_read_at_once_and_not_later() -> None:
    target = load_target("sonos_tcas2022").model_dump(by_alias=True)
    target["conductance"]["g_max"] = 3200.0
    wide = Target.model_validate(target)

    assert bool(torch.isfinite(chip(wide)).all())
    with pytest.raises(ChipError, match=r"at 1 day hold from 0 to 1799 nA, and .* 0 to 3200"):
        chip(wide, drift_time=1.0)


def test_cmo_adds_relaxation_and_read_noise_to_programming_noise() -> None:
    """1.02 uS at 80 uS after one second, as in its source; nothing is read outside 9 to 88.2 uS."""
    target = load_target("reram_cmo")
    assert target.conductance is not None
    weights = torch.full((200_000,), (80 - 9) / (88.2 - 9), dtype=torch.float64)
    for time, expected in ((1.0, 1.021), (DAY, 1.302)):
        cells = read_cells(weights, 1.0, target.conductance, target.noise, Reading(time=time))
        # Five standard errors of a deviation, 5 / sqrt(4e5) = 0.8 %, and three digits.
        assert float(cells[0].std()) == pytest.approx(expected, rel=0.009)
        assert float(cells.min()) >= 9
        assert float(cells.max()) <= 88.2


@pytest.mark.parametrize(("day", "error"), [(0, 0.045), (1, 0.053), (3, 0.062), (5, 0.068)])
def test_the_error_of_a_sonos_layer_over_days(day: int, error: float) -> None:
    """Of the products of a 256 x 256 layer, over their deviation; converters apart."""
    torch.manual_seed(0)
    weight, x = nn.Linear(256, 256, bias=False), torch.randn(1000, 256)
    nn.init.normal_(weight.weight)
    apart = {"dac": Converter(), "adc": Converter()}
    analog = analogize(weight, load_target("sonos_tcas2022").model_copy(update=apart)).eval()
    program(analog, 0, drift_time=day * DAY)

    with torch.no_grad():
        exact = weight(x)
        found = (analog(x) - exact).std() / exact.std()

    # The largest of 65536 normal weights, which takes the whole range, varies by 6 %.
    assert float(found) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize(
    ("name", "time", "figures"),
    [
        # (conductance, sigma) from the polynomials, computed by hand
        ("pcm_joshi2020", 0, [(0.0, 0.26348), (12.5, 0.952705), (25.0, 1.05538)]),
        ("pcm_hermes", 0, [(0.0, 0.16603222), (20.7, 1.09269802)]),
        ("reram_milo2021", 0, [(50.0, 4.326971), (225.0, 2.733246)]),
        ("reram_cmo", 0, [(9.0, 0.112831), (88.2, 1.007021)]),
        ("reram_wan2022", 0, [(0.0, 0.348), (20.0, 2.0229375), (40.0, 1.103)]),
        ("reram_wan2022", 1, [(0.0, 0.701), (40.0, 2.651)]),
        ("reram_wan2022", 2, [(0.0, 0.782), (40.0, 2.677)]),
        ("sonos_tcas2022", 0, [(0.0, 0.0), (176.3115, 12.57074), (3200.0, 19.88665)]),
        ("sonos_tcas2022", 5, [(207.34309, 21.85814)]),
    ],
)
def test_programming_figures(name: str, time: int, figures: list[tuple[float, float]]) -> None:
    model = load_target(name).noise[0]
    assert isinstance(model, ProgrammingNoise | RelaxationNoise)
    for conductance, sigma in figures:
        assert sigma_at(model, conductance, time) == pytest.approx(sigma, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "t0", "figures"),
    [
        # x, mean of nu, its deviation, Q
        ("pcm_joshi2020", 20.0, [(0.0, 0.1, 0.045, 0.2), (1.0, 0.049, 0.008, 0.0088)]),
        ("pcm_joshi2020", 20.0, [(0.1, 0.060090, 0.022882, 0.039306)]),
        ("pcm_hermes", 300.0, [(0.0, 0.13, 0.04, 0.04), (1.0, 0.0174, 0.0048, 0.0123)]),
    ],
)
def test_drift_figures(name: str, t0: float, figures: list[tuple[float, ...]]) -> None:
    target = load_target(name)
    (drift,) = (m for m in target.noise if isinstance(m, DriftNoise))
    (read,) = (m for m in target.noise if isinstance(m, OneOverFNoise))
    assert target.conductance is not None
    assert drift.t0 == read.t0 == t0
    for x, mean, std, q in figures:
        g = torch.tensor(x * target.conductance.g_max, dtype=torch.float64)
        found = [float(evaluate(curve, g)) for curve in (drift.nu_mean, drift.nu_std, read.q)]
        assert found == pytest.approx([mean, std, q], rel=1e-4)


def test_the_pieces_of_hermes_meet() -> None:
    """The published pieces join within 12 %; a mistyped coefficient would not."""
    for model in load_target("pcm_hermes").noise:
        curves = {
            DriftNoise: lambda m: (m.nu_mean, m.nu_std),
            OneOverFNoise: lambda m: (m.q,),
        }.get(type(model), lambda m: ())(model)
        for curve in curves:
            below, above = (
                float(evaluate(curve, torch.tensor(curve.split * f))) for f in (0.9999, 1.0001)
            )
            assert math.isclose(below, above, rel_tol=0.12)


def test_isaac_loses_only_the_last_bits_of_sixteen() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(200, 10), torch.randn(5, 200)
    analog = analogize(layer, "isaac", [x]).eval()

    # Weights and inputs are rounded to 2^-16 of their ranges; 200 products add up.
    error = (analog(x) - layer(x)).detach().abs().max()
    assert float(error) < 200 * 2**-16 * float(x.abs().max() * layer.weight.detach().abs().max())
