"""Weights to conductances and back: algebra."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from analogize.devices.cells import Reading, simulate
from analogize.devices.conductance import from_pairs, to_pairs
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


def test_a_scale_for_each_column_uses_the_whole_range_in_each() -> None:
    weights = torch.tensor([[0.5, -0.25], [2.0, 1.0]])
    pairs = to_pairs(weights, weights.abs().amax(1, keepdim=True), 1.0, 11.0)

    assert pairs[0].tolist() == [[11.0, 1.0], [11.0, 6.0]]
    assert pairs[1].tolist() == [[1.0, 6.0], [1.0, 1.0]]


def test_the_on_off_ratio() -> None:
    assert Conductance(g_min=0.25, g_max=25.0).on_off_ratio == 100
    assert Conductance(g_max=25.0).on_off_ratio == float("inf")
