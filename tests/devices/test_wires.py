"""IR drop against the resistor network it approximates, solved node by node with numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.testing import assert_close

from analogize.devices.layout import Layout
from analogize.devices.wires import ir_drop
from analogize.product import BatchedLinear, Convolution, Linear, Product

Floats = npt.NDArray[np.float64]
CONV = Convolution("conv2d", (1, 1), (1, 1), (1, 1))
DEPTHWISE = Convolution("conv2d", (1, 1), (1, 1), (1, 1), groups=7)
TRANSPOSED = Convolution("conv_transpose2d", (1, 2), (0, 0), (1, 1), True, (0, 0), 3)


def network(g: Floats, r_row: float, r_col: float) -> Floats:
    """What a volt at each row drives out of each column, shape as ``g`` (rows, columns); siemens.

    Kirchhoff's current law at the 2 R C nodes of rows and columns. Row i is driven from column 0's
    side, column j is held at ground on row 0's side, each through one segment of wire.
    """
    rows, columns = g.shape
    count = rows * columns
    nodes = np.zeros((2 * count, 2 * count))
    driven = np.zeros((2 * count, rows))

    def connect(a: int, b: int | None, y: float) -> None:
        nodes[a, a] += y
        if b is not None:
            nodes[b, b] += y
            nodes[a, b] -= y
            nodes[b, a] -= y

    for i in range(rows):
        for j in range(columns):
            row, column = i * columns + j, count + i * columns + j
            connect(row, column, g[i, j])
            connect(row, row - 1 if j else None, 1 / r_row)
            connect(column, column - columns if i else None, 1 / r_col)
            if j == 0:
                driven[row, i] = 1 / r_row
    voltages = np.linalg.solve(nodes, driven)
    return (voltages[count : count + columns] / r_col).T


def approximate(g: Floats, r_row: float, r_col: float) -> Floats:
    """``ir_drop`` on one tile that ``g`` fills."""
    layout = Layout(Linear(), torch.Size(g.T.shape), *g.shape)
    found = ir_drop(torch.from_numpy(g.T[None] * 1e6), layout, r_row, r_col)
    return found[0].numpy().T * 1e-6


def loss(g: Floats, r_row: float, r_col: float) -> Floats:
    """The docstring's formula, sum by sum."""
    rows, columns = (np.arange(1, n + 1) for n in g.shape)
    along_row = g @ np.minimum.outer(columns, columns)
    along_column = np.minimum.outer(rows, rows) @ g
    result: Floats = r_row * along_row + r_col * along_column
    return result


def patterns(rows: int, columns: int) -> dict[str, Floats]:
    draw = np.random.default_rng(0)
    full = draw.uniform(1e-6, 25e-6, (rows, columns))
    one_column, one_row, board = np.zeros_like(full), np.zeros_like(full), full.copy()
    one_column[:, -1] = one_row[-1] = 25e-6
    board[::2, ::2] = board[1::2, 1::2] = 0
    low_contrast = draw.uniform(50e-6, 225e-6, (rows, columns))
    return {
        "uniform": full,
        "one column": one_column,
        "one row": one_row,
        "checkerboard": board,
        "on/off 4.5": low_contrast,
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 12), (5, 20)])
@pytest.mark.parametrize("name", ["uniform", "one column", "one row", "checkerboard", "on/off 4.5"])
@pytest.mark.parametrize("largest", [0.01, 0.3, 0.999])
def test_against_the_solved_network(size: tuple[int, int], name: str, largest: float) -> None:
    """The figures that the module states: a quarter of the squared loss, and 5 % of G_max."""
    g = patterns(*size)[name] + 1e-12  # the network needs every node connected
    scale = largest / loss(g, 1.0, 2.5).max()
    r_row, r_col = scale, 2.5 * scale

    exact, found = network(g, r_row, r_col), approximate(g, r_row, r_col)

    worst = np.abs(found - exact).max() / g.max()
    assert worst < min(largest**2 / 4, 0.05) + 1e-9
    # Ignoring the wires would be off by far more.
    assert np.abs(g - exact).max() / g.max() > min(2 * worst, 0.5 * largest)


def test_the_error_is_of_second_order() -> None:
    """Half the resistance leaves a quarter of the error, but half the effect."""
    g = patterns(16, 12)["uniform"]
    r = 0.02 / loss(g, 1.0, 1.0).max()

    def error(r: float) -> float:
        return float(np.abs(approximate(g, r, r) - network(g, r, r)).max())

    assert error(r) / error(r / 2) == pytest.approx(4, rel=0.05)


def test_a_single_cell_is_exact() -> None:
    """Driver, segment, cell, segment, ground: resistances in series."""
    g = np.array([[25e-6]])
    assert approximate(g, 300.0, 500.0) == pytest.approx(1 / (1 / 25e-6 + 800.0), rel=1e-12)


@pytest.mark.parametrize(
    ("product", "shape", "size"),
    [
        (Linear(), (9, 11), (4, 5)),
        (Linear(), (3, 4), (16, 16)),
        (Linear(), (11,), (4, 5)),
        (BatchedLinear((3,)), (3, 4, 7), (16, 16)),
        (CONV, (6, 3, 2, 2), (5, 4)),
        (DEPTHWISE, (7, 1, 3, 3), (30, 5)),
        (TRANSPOSED, (9, 2, 2, 3), (100, 5)),
        (TRANSPOSED, (9, 2, 2, 3), (7, 5)),
    ],
)
def test_tiles_are_respected(
    product: Product, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    """Every weight from the formula on its own tile, cell by cell; blocks on a diagonal."""
    torch.manual_seed(0)
    g = torch.rand(2, *shape, dtype=torch.float64) * 25
    layout = Layout(product, torch.Size(shape), *size)

    found = ir_drop(g, layout, 2.0, 3.0)

    _, height, width = product.matrix(torch.Size(shape))
    together = max(1, min(size[0] // height, size[1] // width))
    for device, result in zip(g, found, strict=True):
        tiles: dict[Any, Floats] = {}
        where: dict[tuple[int, ...], Any] = {}
        for index in np.ndindex(*shape):
            group, row, column = place(product, shape, index)
            if together > 1:
                key: Any = group // together
                cell = (group % together * height + row, group % together * width + column)
            else:
                key = group, row // size[0], column // size[1]
                cell = row % size[0], column % size[1]
            tiles.setdefault(key, np.zeros(size))[cell] = float(device[index]) * 1e-6
            where[index] = key, cell
        for index, (key, cell) in where.items():
            expected = float(device[index]) / (1 + loss(tiles[key], 2.0, 3.0)[cell])
            assert float(result[index]) == pytest.approx(expected, rel=1e-9)


def place(product: Product, shape: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, int, int]:
    """(group, row, column) of one weight in the array's matrix, from torch's layouts."""
    groups, _, width = product.matrix(torch.Size(shape))
    if not isinstance(product, Convolution):
        full = (1, 1, *index)
        return (index[0] if len(index) > 2 else 0), full[-1], full[-2] if len(index) > 1 else 0
    tap = int(np.ravel_multi_index(index[2:], shape[2:]))
    taps = int(np.prod(shape[2:]))
    if product.transposed:
        inputs = shape[0] // groups
        return index[0] // inputs, index[0] % inputs * taps + tap, index[1]
    return index[0] // width, index[1] * taps + tap, index[0] % width


def solved(g: Floats, r_row: float, r_col: float, solver: Any = "nodal") -> Floats:
    layout = Layout(Linear(), torch.Size(g.T.shape), *g.shape)
    found = ir_drop(torch.from_numpy(g.T[None] * 1e6), layout, r_row, r_col, solver)
    return found[0].numpy().T * 1e-6


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (16, 12), (5, 20), (20, 5)])
@pytest.mark.parametrize("name", ["uniform", "one column", "one row", "checkerboard", "on/off 4.5"])
@pytest.mark.parametrize("largest", [0.01, 1.5, 300.0])
def test_the_solver_is_exact(size: tuple[int, int], name: str, largest: float) -> None:
    """To 1e-9 of the largest conductance, what double precision leaves of nodes far apart."""
    g = patterns(*size)[name] + 1e-12
    scale = largest / loss(g, 1.0, 2.5).max()
    exact, found = network(g, scale, 2.5 * scale), solved(g, scale, 2.5 * scale)
    assert np.abs(found - exact).max() < 1e-9 * g.max()


@pytest.mark.parametrize("zero", ["row", "column"])
def test_wires_without_resistance_in_one_direction(zero: str) -> None:
    g = patterns(7, 9)["uniform"]
    r_row, r_col = (1e-9, 4e3) if zero == "row" else (4e3, 1e-9)
    found = solved(g, 0.0, 4e3) if zero == "row" else solved(g, 4e3, 0.0)
    assert_close(found, network(g, r_row, r_col), rtol=1e-4, atol=1e-12)


def test_the_solver_takes_over_where_the_first_order_ends() -> None:
    g = patterns(16, 12)["on/off 4.5"]
    for largest, alike in ((0.99, "first_order"), (1.01, "nodal")):
        scale = largest / loss(g, 1.0, 1.0).max()
        chosen, expected = (solved(g, scale, scale, s) for s in ("auto", alike))
        assert np.array_equal(chosen, expected)


def test_places_without_a_cell_are_no_obstacle() -> None:
    g = patterns(6, 6)["uniform"]
    g[2], g[:, 4], g[0, 0] = 0, 0, 0
    exact = network(g + 1e-15, 1e4, 1e4)
    assert_close(solved(g, 1e4, 1e4), exact, rtol=1e-6, atol=1e-12)
