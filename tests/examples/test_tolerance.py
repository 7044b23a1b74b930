"""The noise that a model withstands, from a curve of accuracies."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

tolerance = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tolerance.py"))[
    "tolerance"
]


def rows(*levels: tuple[float, list[float]]) -> list[dict[str, object]]:
    return [{"eta": eta, "values": values} for eta, values in levels]


def test_crossing_is_linear_between_levels() -> None:
    found = tolerance(rows((0.0, [0.9]), (0.04, [0.88, 0.92]), (0.08, [0.78, 0.82])), 0.85)
    assert found["eta"] == pytest.approx(0.06)
    assert not found["is_lower_bound"]
    # Two chips a tenth of a step apart: every resample has a mean within 0.02 of the whole mean.
    assert 0.04 < found["low"] <= found["eta"] <= found["high"] < 0.08


def test_the_first_crossing_counts() -> None:
    curve = rows((0.0, [0.9]), (0.1, [0.7]), (0.2, [0.9]))
    assert tolerance(curve, 0.8)["eta"] == pytest.approx(0.05)


def test_a_curve_above_the_limit_gives_a_lower_bound() -> None:
    found = tolerance(rows((0.0, [0.9]), (0.1, [0.89, 0.9])), 0.8)
    assert (found["eta"], found["is_lower_bound"]) == (0.1, True)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=6),
    st.floats(0, 1),
    st.floats(0, 0.2),
)
def test_asking_for_less_never_lowers_the_tolerance(
    levels: list[list[float]], limit: float, less: float
) -> None:
    curve = rows(*((k / 10, values) for k, values in enumerate(levels)))
    strict, lenient = tolerance(curve, limit, 10), tolerance(curve, limit - less, 10)
    assert 0 <= strict["eta"] <= lenient["eta"] <= (len(levels) - 1) / 10
