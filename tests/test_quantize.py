from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from analogize.quantize import Grid, fake_quantize, make_grid, percentiles, to_codes

finite = st.floats(-1e4, 1e4, width=32, allow_nan=False)
vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=finite).map(torch.from_numpy)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    kind = draw(st.sampled_from(["affine", "symmetric"]))
    bits = draw(st.integers(2 if kind == "symmetric" else 1, 12))
    low = draw(st.floats(-100, 99, width=32))
    width = draw(st.floats(0.015625, 200, width=32))
    return make_grid(torch.tensor(low), torch.tensor(low + width), bits, kind)


@given(vectors, grids())
def test_quantizing_twice_changes_nothing(values: Tensor, grid: Grid) -> None:
    once = fake_quantize(values, grid)
    torch.testing.assert_close(fake_quantize(once, grid), once, rtol=0, atol=0)


@given(vectors, grids())
def test_quantizing_keeps_the_order(values: Tensor, grid: Grid) -> None:
    ordered = fake_quantize(values.sort().values, grid)
    assert bool((ordered.diff() >= 0).all())


@given(vectors, grids())
def test_error_is_at_most_half_a_step_inside_the_range(values: Tensor, grid: Grid) -> None:
    low, high = grid.range
    inside = values.clamp(low, high)
    error = (fake_quantize(inside, grid) - inside).abs().double()
    # One rounding each of the division, the multiplication and the difference.
    slack = 4 * torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs()).double()
    assert bool((error <= grid.scale.double() / 2 + slack).all())


@given(vectors, grids())
def test_values_beyond_the_range_land_on_its_ends(values: Tensor, grid: Grid) -> None:
    low, high = grid.range
    quantized = fake_quantize(values, grid)
    assert bool((quantized >= low).all())
    assert bool((quantized <= high).all())


@given(grids())
def test_zero_is_an_exact_code(grid: Grid) -> None:
    assert fake_quantize(torch.zeros(1), grid).item() == 0
    assert float(grid.low) == int(grid.low) <= 0 <= int(grid.high) == float(grid.high)


@given(st.integers(1, 12))
def test_an_affine_grid_has_all_its_codes(bits: int) -> None:
    grid = make_grid(torch.tensor(-0.3), torch.tensor(1.1), bits)
    assert float(grid.high) - float(grid.low) == 2**bits - 1
    codes = to_codes(torch.linspace(-5, 5, 50_000), grid)
    assert codes.unique().numel() == 2**bits


@given(st.integers(2, 12))
def test_a_symmetric_grid_mirrors(bits: int) -> None:
    grid = make_grid(torch.tensor(-0.3), torch.tensor(1.1), bits, "symmetric")
    values = torch.randn(1000)
    torch.testing.assert_close(to_codes(-values, grid), -to_codes(values, grid), rtol=0, atol=0)
    assert float(grid.high) == 2 ** (bits - 1) - 1
    assert [float(end) for end in grid.range] == pytest.approx([-1.1, 1.1], rel=1e-6)


def test_ties_go_to_the_even_code() -> None:
    grid = Grid(torch.tensor(1.0), -8.0, 7.0)
    codes = to_codes(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), grid)
    assert codes.tolist() == [0, 2, 2, 0, -2]


def test_a_range_without_zero_is_widened_to_it() -> None:
    grid = make_grid(torch.tensor(0.5), torch.tensor(2.0), 4)
    low, high = grid.range
    assert low.item() == 0
    assert high.item() == pytest.approx(2.0)


def test_channels_have_their_own_grids() -> None:
    low, high = torch.tensor([-1.0, -4.0]), torch.tensor([1.0, 2.0])
    grid = make_grid(low, high, 8)
    for channel in range(2):
        alone = make_grid(low[channel], high[channel], 8)
        assert grid.scale[channel] == alone.scale
        assert grid.low[channel] == alone.low  # type: ignore[index]
        assert grid.high[channel] == alone.high  # type: ignore[index]


@given(vectors, st.floats(0, 50), st.floats(50, 100))
def test_percentiles_agree_with_numpy(values: Tensor, low: float, high: float) -> None:
    expected = np.percentile(values.numpy().astype(np.float64), [low, high])
    scale = float(values.abs().max())
    np.testing.assert_allclose(
        percentiles(values, low, high).numpy(), expected, atol=1e-5 * scale + 1e-30
    )
