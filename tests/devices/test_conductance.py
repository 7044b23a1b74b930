"""Weights to conductances and back: algebra."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.testing import assert_close

from analogize.devices.cells import Reading, simulate
from analogize.devices.conductance import from_cells, from_pairs, to_cells, to_pairs
from analogize.targets.conductance import Conductance

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
ranges = st.tuples(st.floats(0, 100), st.floats(0.1, 100)).map(lambda g: (g[0], g[0] + g[1]))


@given(sizes, ranges, st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_there_and_back(
    size: list[int], conductances: tuple[float, float], full: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1) * full
    g_min, g_max = conductances

    pairs = to_pairs(weights, full, g_min, g_max)

    # float64 rounds to 1e-16 of g_max, which a narrow range magnifies by g_max / (g_max - g_min).
    assert pairs.shape == (2, *size)
    assert bool((pairs >= g_min).all())
    assert bool((pairs <= g_max * (1 + 1e-12)).all())
    assert bool((pairs.amin(0) == g_min).all()), "one device of each pair is off"
    back = from_pairs(pairs, full, g_min, g_max)
    assert_close(back, weights, rtol=0, atol=1e-12 * full)


@given(ranges, st.integers(1, 4), st.sampled_from(["tensor", "column"]))
def test_perfect_cells_change_nothing(
    conductances: tuple[float, float], pairs: int, scale: str
) -> None:
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    full = weights.abs().amax(1, keepdim=True) if scale == "column" else 1.0
    mapping = Conductance(g_min=conductances[0], g_max=conductances[1], pairs=pairs)

    assert_close(simulate(weights, full, mapping, (), Reading()), weights, rtol=0, atol=1e-12)


@given(ranges, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_an_offset_is_one_device_around_the_middle(
    conductances: tuple[float, float], pairs: int, seed: int
) -> None:
    weights = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights = 6 * weights - 3
    g_min, g_max = conductances
    mapping = Conductance(g_min=g_min, g_max=g_max, encoding="offset", pairs=pairs)

    cells = to_cells(weights, 3.0, mapping)
    middle = (g_min + g_max) / 2
    assert_close(cells[0, 0], middle + (g_max - g_min) * weights / 6, rtol=1e-12, atol=0)
    assert bool((cells[1] == middle).all())
    back = from_cells(cells.expand(2, pairs, 5, 4), 3.0, mapping)
    assert_close(back, weights, rtol=0, atol=1e-11)


def test_pairs_of_different_significance_are_filled_one_after_the_other() -> None:
    mapping = Conductance(g_min=1.0, g_max=11.0, pairs=2, significance=(1.0, 4.0))
    weights = torch.tensor([0.5, 1.0, 3.0, -5.0], dtype=torch.float64)
    cells = to_cells(weights, 5.0, mapping)

    # In units of the least significant pair: 0.5, 1, 3 and 5 of 5.
    assert cells[0].tolist() == [[6.0, 11.0, 11.0, 1.0], [1.0, 1.0, 6.0, 1.0]]
    assert cells[1].tolist() == [[1.0, 1.0, 1.0, 11.0], [1.0, 1.0, 1.0, 11.0]]
    assert_close(from_cells(cells, 5.0, mapping), weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"significance": (1.0, 4.0)}, "pairs: 2"),
        ({"significance": (4.0, 1.0), "pairs": 2}, "from the lowest"),
        ({"significance": (1.0,), "encoding": "offset"}, "encoding: pair"),
    ],
)
def test_encodings_that_contradict_themselves_are_refused(more: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        Conductance(g_max=25.0, **more)


def test_a_scale_for_each_column_uses_the_whole_range_in_each() -> None:
    weights = torch.tensor([[0.5, -0.25], [2.0, 1.0]])
    pairs = to_pairs(weights, weights.abs().amax(1, keepdim=True), 1.0, 11.0)

    assert pairs[0].tolist() == [[11.0, 1.0], [11.0, 6.0]]
    assert pairs[1].tolist() == [[1.0, 6.0], [1.0, 1.0]]


def test_the_on_off_ratio() -> None:
    assert Conductance(g_min=0.25, g_max=25.0).on_off_ratio == 100
    assert Conductance(g_max=25.0).on_off_ratio == float("inf")
