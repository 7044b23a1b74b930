"""The noise that a model withstands, from a curve of accuracies."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
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


module = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tolerance.py"))
two_way, two_way_difference = module["two_way"], module["two_way_difference"]
two_way_ratio = module["two_way_ratio"]


def bits(accuracy: float, chips: int, images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((chips, images)) < accuracy


def test_the_two_way_crossing_is_that_of_the_means() -> None:
    curve = [(0.0, bits(0.9, 1, 400)), (0.05, bits(0.85, 20, 400)), (0.1, bits(0.7, 20, 400))]
    reference = bits(0.9, 1, 400)[0]
    found = two_way(curve, reference, 10)
    expected = tolerance(
        [{"eta": eta, "values": level.mean(1)} for eta, level in curve], reference.mean() - 0.1
    )
    assert found["eta"] == pytest.approx(expected["eta"])
    assert found["low"] < found["eta"] < found["high"]


def test_a_reference_on_the_same_images_takes_their_share_of_the_error() -> None:
    """Images that are hard for all move accuracy and limit alike."""
    hard = np.random.default_rng(1).random(400) < 0.3
    easy = ~hard & bits(0.99, 20, 400)
    curve = [
        (0.0, ~hard[None]),
        (0.1, easy & bits(0.98, 20, 400, 2)),
        (0.2, easy & bits(0.7, 20, 400)),
    ]
    together = two_way(curve, ~hard, 5)
    apart = two_way(curve, np.random.default_rng(3).permutation(~hard), 5)
    assert together["high"] - together["low"] < apart["high"] - apart["low"]


def test_a_difference_between_models_that_agree_is_nothing() -> None:
    same = bits(0.8, 10, 300)
    assert two_way_difference(same, same) == (0.0, 0.0, 0.0)
    mean, low, high = two_way_difference(bits(0.9, 30, 300), bits(0.7, 30, 300, 1))
    assert low < mean < high
    # 9,000 independent answers each: the standard error is 0.006.
    assert mean == pytest.approx(0.2, abs=0.03)


def test_the_ratio_of_tolerances_takes_what_both_share_out_of_its_interval() -> None:
    """The same answers at twice the noise: exactly twice the tolerance, whatever is drawn."""
    reference = bits(0.9, 1, 400)[0]
    levels = [bits(0.9, 1, 400), bits(0.85, 20, 400), bits(0.6, 20, 400)]
    once = [(0.05 * k, level) for k, level in enumerate(levels)]
    twice = [(2 * eta, level) for eta, level in once]
    assert two_way_ratio(twice, once, reference, 10) == pytest.approx((2, 2, 2))
    # Five chips more on one side are left out.
    more = [(eta, np.concatenate([level, level[:5]])) for eta, level in twice]
    more[0] = twice[0]
    assert two_way_ratio(more, once, reference, 10) == pytest.approx((2, 2, 2))
    other = [(eta, bits(level.mean(), *level.shape, 7)) for eta, level in once]
    ratio, low, high = two_way_ratio(other, once, reference, 10)
    assert low < ratio < high
    assert two_way(other, reference, 10)["eta"] / two_way(once, reference, 10)["eta"] == ratio


def test_a_model_that_tolerates_nothing_divides_to_infinity() -> None:
    reference, good, bad = bits(0.9, 1, 400)[0], bits(0.85, 20, 400), bits(0.5, 20, 400)
    curve, none = [(0.0, good), (0.1, bad)], [(0.0, bad), (0.1, bad)]
    assert two_way_ratio(curve, none, reference, 10)[0] == np.inf
