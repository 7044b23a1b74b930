"""The device targets: their figures, at both ends of their validity, on a programmed layer."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.devices.curves import evaluate
from analogize.errors import ChipError
from analogize.targets import load_target, names
from analogize.targets.load import sources
from analogize.targets.noise import DriftNoise, OneOverFNoise, ProgrammingNoise, RelaxationNoise
from analogize.targets.spec import Target

DEVICES = (
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
LATEST = {"reram_wan2022": 2 * DAY, "sonos_tcas2022": 5 * DAY}


def chip(name: str, **reading: Any) -> torch.Tensor:
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


@pytest.mark.parametrize("name", DEVICES)
def test_both_ends_of_time(name: str) -> None:
    assert bool(torch.isfinite(chip(name)).all())
    latest = LATEST.get(name, 365 * DAY)
    assert bool(torch.isfinite(chip(name, drift_time=latest)).all())


@pytest.mark.parametrize("name", sorted(LATEST))
def test_a_time_that_was_not_measured_is_refused(name: str) -> None:
    with pytest.raises(ChipError, match="was measured up to"):
        chip(name, drift_time=LATEST[name] + 1)


@pytest.mark.parametrize("name", [name for name in DEVICES if name != "isaac"])
def test_conductances_that_were_not_measured_are_refused(name: str) -> None:
    target = load_target(name).model_dump(by_alias=True)
    target["conductance"]["g_max"] *= 1.01
    with pytest.raises(ValidationError, match="its figures hold from"):
        Target.model_validate(target)


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
        ("sonos_tcas2022", 0, [(0.0, 0.0), (176.31, 12.57096), (3200.0, 19.887)]),
        ("sonos_tcas2022", 3, [(207.34, 21.85808)]),
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
