"""The schema: round trips through YAML, immutability, and every combination that is refused."""

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from analogize.targets import Target, load_target
from analogize.targets.read import read_yaml
from analogize.targets.spec import (
    AbsMaxRange,
    Array,
    Converter,
    Digital,
    FixedRange,
    FixedSNRNoise,
    GaussianNoise,
    Grid,
    LeastSquaresRange,
    MinMaxRange,
    PercentileRange,
    StdRange,
    Weights,
)

levels = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
widths = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
nonempty = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@st.composite
def percentile_ranges(draw: st.DrawFn) -> PercentileRange:
    low, high = sorted(draw(st.lists(st.floats(0, 100), min_size=2, max_size=2, unique=True)))
    return PercentileRange(low=low, high=high)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int | None, Grid, FixedRange]:
    """Bits, grid and a fixed range that agree with one another."""
    grid: Grid = draw(st.sampled_from(["affine", "symmetric"]))
    bits = draw(st.none() | st.integers(1 if grid == "affine" else 2, 16))
    above, below = draw(widths), draw(levels)
    low = -above if grid == "symmetric" else -below
    return bits, grid, FixedRange(min=low, max=above)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    bits, grid, fixed = draw(grids())
    ranges = st.one_of(
        st.builds(StdRange, multiple=widths),
        percentile_ranges(),
        st.just(AbsMaxRange()),
        st.just(fixed),
    )
    chosen = draw(ranges if bits is not None else st.none() | ranges)
    granularity: Literal["tensor", "channel"] = draw(st.sampled_from(["tensor", "channel"]))
    return Weights(range=chosen, bits=bits, granularity=granularity, grid=grid)


@st.composite
def converters(draw: st.DrawFn) -> Converter:
    bits, grid, fixed = draw(grids())
    ranges = st.one_of(
        percentile_ranges(),
        st.just(fixed),
        st.just(MinMaxRange()),
        st.just(LeastSquaresRange()),
        st.builds(StdRange, multiple=widths),
    )
    return Converter(bits=bits, range=draw(ranges), grid=grid)


@st.composite
def weights_and_noise(draw: st.DrawFn) -> tuple[Weights, list[GaussianNoise | FixedSNRNoise]]:
    chosen = draw(weights())
    ranged = chosen.range is not None
    return chosen, draw(st.lists(noises if ranged else fixed_snr, max_size=2))


@st.composite
def targets(draw: st.DrawFn) -> Target:
    chosen, noise = draw(weights_and_noise())
    return Target(
        name=draw(nonempty),
        description=draw(texts),
        technology=draw(nonempty),
        references=tuple(draw(st.lists(nonempty, max_size=2))),
        weights=chosen,
        noise=tuple(noise),
        dac=draw(converters()),
        adc=draw(converters()),
        array=draw(st.none() | arrays),
        digital=draw(digitals),
    )


fixed_snr = st.builds(FixedSNRNoise, ratio=levels)
noises = st.builds(GaussianNoise, eta=levels, eta_std=levels) | fixed_snr
arrays = st.builds(Array, rows=st.integers(1, 10**9), cols=st.integers(1, 4096))
digitals = st.builds(
    Digital,
    operators=st.lists(st.sampled_from(["linear", "conv2d", "conv_transpose3d"]), max_size=2),
    names=st.lists(nonempty, max_size=2),
)


@settings(max_examples=100, deadline=None)
@given(targets())
def test_a_target_survives_its_yaml(
    tmp_path_factory: pytest.TempPathFactory, target: Target
) -> None:
    file = tmp_path_factory.mktemp("target") / "round_trip.yaml"
    file.write_text(target.to_yaml(), encoding="utf-8")

    again = load_target(file)

    assert again == target
    assert hash(again) == hash(target)


@pytest.mark.parametrize(
    "name",
    [
        "1e3",
        "1e-3",
        "yes",
        "null",
        "0x1f",
        "1:30",
        "",
        " x ",
        "a\nb",
        "\x85",
        "\u2028a",
        "\ufeff",
        "é#: ",
    ],
)
def test_text_that_looks_like_something_else_stays_text(name: str) -> None:
    target = Target(name="x", description=name)

    root, _ = read_yaml(target.to_yaml(), "text.yaml")

    assert root.plain()["description"] == name


def test_to_yaml_spells_out_every_default() -> None:
    root, _ = read_yaml(Target(name="x").to_yaml(), "x.yaml")

    assert root.plain() == {
        "schema": 1,
        "name": "x",
        "description": "",
        "technology": "generic",
        "references": [],
        "weights": {"range": None, "bits": None, "granularity": "tensor", "grid": "affine"},
        "conductance": None,
        "noise": [],
        "compensation": "none",
        "dac": {
            "bits": None,
            "range": {"kind": "mse"},
            "granularity": "tensor",
            "grid": "affine",
        },
        "adc": {
            "bits": None,
            "range": {"kind": "mse"},
            "granularity": "tensor",
            "grid": "affine",
        },
        "array": None,
        "cost": None,
        "digital": {"operators": [], "names": [], "ends": False},
        "overrides": [],
    }


def test_a_target_is_immutable() -> None:
    target = Target(name="x")

    with pytest.raises(ValidationError, match="frozen"):
        target.name = "y"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"weights": {"bits": 0}}, "greater than or equal to 1"),
        ({"weights": {"bits": 17}}, "less than or equal to 16"),
        ({"weights": {"bits": "8"}}, "valid integer"),
        ({"weights": {"bits": True}}, "valid integer"),
        ({"weights": {"bits": 8.0}}, "valid integer"),
        (
            {"weights": {"range": {"kind": "absmax"}, "bits": 1, "grid": "symmetric"}},
            "2 to 16 bits",
        ),
        ({"weights": {"bits": 4}}, "a grid needs a range"),
        ({"noise": [{"model": "gaussian", "eta": 0}]}, "share of W_max - W_min"),
        ({"adc": {"bits": 1, "grid": "symmetric"}}, "2 to 16 bits"),
        ({"weights": {"range": {"kind": "std", "multiple": 0}}}, "greater than 0"),
        ({"weights": {"range": {"kind": "std", "multiple": float("inf")}}}, "finite"),
        ({"weights": {"range": {"kind": "fixed", "min": 1, "max": 1}}}, "must be below max"),
        ({"weights": {"range": {"kind": "percentile", "low": 50, "high": 50}}}, "below high"),
        ({"dac": {"range": {"kind": "percentile", "low": -1}}}, "greater than or equal to 0"),
        ({"dac": {"range": {"kind": "percentile", "high": 101}}}, "less than or equal to 100"),
        ({"dac": {"range": {"kind": "absmax"}}}, "does not match any"),
        ({"dac": {"bits": 4, "range": {"kind": "fixed", "min": 1, "max": 2}}}, "contain 0"),
        ({"weights": {"bits": 4, "range": {"kind": "fixed", "min": -2, "max": -1}}}, "contain 0"),
        (
            {
                "adc": {
                    "bits": 4,
                    "grid": "symmetric",
                    "range": {"kind": "fixed", "min": -1, "max": 2},
                }
            },
            "negative of max",
        ),
        ({"noise": [{"model": "gaussian", "eta": -0.1}]}, "greater than or equal to 0"),
        ({"noise": [{"model": "gaussian", "eta": float("nan")}]}, "finite"),
        ({"noise": [{"model": "gaussian", "eta": 0.1, "eta_std": -1}]}, "greater than or equal"),
        ({"noise": [{"model": "fixed_snr", "ratio": "0.1"}]}, "valid number"),
        ({"array": {"rows": 0, "cols": 1}}, "greater than or equal to 1"),
        ({"array": {"rows": 1}}, "Field required"),
        ({"digital": {"operators": ["conv2"]}}, "conv2d"),
        ({"schema_version": 2}, "Input should be 1"),
        ({"name": ""}, "at least 1 character"),
        ({"nmae": "x"}, "Extra inputs"),
    ],
)
def test_values_out_of_range_are_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Target.model_validate({"name": "x", **part})


@pytest.mark.parametrize(
    "part",
    [
        {"weights": {"range": {"kind": "absmax"}, "bits": 1}},
        {"weights": {"range": {"kind": "absmax"}, "bits": 16, "grid": "symmetric"}},
        # Clipping alone needs no code for zero, and without bits there is no grid to fit.
        {"weights": {"range": {"kind": "fixed", "min": 1, "max": 2}}},
        {"weights": {"grid": "symmetric", "range": {"kind": "fixed", "min": -1, "max": 2}}},
        # Zero at either end is an exact code: the output of a ReLU.
        {"dac": {"bits": 4, "range": {"kind": "fixed", "min": 0, "max": 6}}},
        {"dac": {"bits": 4, "range": {"kind": "fixed", "min": -6, "max": 0}}},
        {"weights": {"range": {"kind": "percentile", "low": 0, "high": 100}}},
        {"noise": [{"model": "fixed_snr", "ratio": 0}]},
        {
            "weights": {"range": {"kind": "absmax"}},
            "noise": [{"model": "gaussian", "eta": 0, "eta_std": 0.1}],
        },
    ],
)
def test_the_edges_of_what_is_allowed(part: dict[str, Any]) -> None:
    Target.model_validate({"name": "x", **part})
