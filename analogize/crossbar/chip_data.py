"""A chip as data: the conductances of every array's cells, in siemens, and what they stand for.

Matrices are laid out as on a crossbar. A product has ``groups`` blocks of ``rows`` x ``columns``: a
row for each input of a column (a convolution's in im2col order, row = channel * taps + tap), a
column for each output. ``conductances`` has the shape ::

    (digits, 2, pairs, groups, rows, columns)

digits: least significant first, 1 without bit slicing; 2: G+ and G-; pairs: averaged. The weight of
a cell, in array units (weight units where ``unit`` is 1), is ::

    (G+ - G-) full / (g_max - g_min), averaged over pairs; digits times 2^(bits digit), added up

(twice that for the encoding ``offset``, where G- is the tile's reference column, repeated for all
its columns; pairs weighted by their significance where they have one)

plus ``deviation`` where a target has noise on weights beside devices. NaN is a dead cell: it
carries no current.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from analogize.crossbar.seeds import integer
from analogize.devices.times import describe
from analogize.display.tables import Shown
from analogize.errors import ChipError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """A part of the matrix on one tile: ``tile[top:, left:]`` holds it.

    Attributes:
        group: which block of the matrix.
        rows: its rows, (first, one past the last).
        columns: its columns, likewise.
        top: first row on the tile.
        left: first column on the tile.
    """

    group: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class WeightMapping:
    """What conductances stand for.

    Attributes:
        g_min: of a weight of zero, in siemens (amperes for cells characterised by currents).
        g_max: of a weight of ``full``.
        full: array units of the whole conductance range; a number, or one a column.
        unit: weight units in one array unit; a number, or one a column.
        encoding: ``"pair"`` or ``"offset"`` (devices/conductance.py).
        significance: the factor on each pair's current; None: pairs are averaged.
    """

    g_min: float
    g_max: float
    full: Floats
    unit: Floats
    encoding: Literal["pair", "offset"] = "pair"
    significance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ArrayData:
    """The cells of one array.

    Attributes:
        shape: of the weight in the model.
        matrix: (groups, rows, columns).
        conductances: in siemens, see the module; None where the target describes no devices.
        deviation: array units added to what the cells hold, shape (digits, groups, rows, columns);
            all of the weights where there are no cells. None for none.
        defects: instead of ``conductances``: those of defective cells, NaN for sound ones.
        mapping: what conductances stand for; None for the model's own.
        correction: what outputs are multiplied by digitally, 0-d, one a column, or (rows of tiles,
            columns) of one a tile; None for nothing.
        tile: (rows, columns) of a tile, or None without a size.
        cell_bits: bits of a digit, or None without bit slicing.
        settings: what else a reader may want: operator, converters with their ranges.
    """

    shape: tuple[int, ...]
    matrix: tuple[int, int, int]
    conductances: Floats | None = None
    deviation: Floats | None = None
    defects: Floats | None = None
    mapping: WeightMapping | None = None
    correction: Floats | None = None
    tile: tuple[int, int] | None = None
    cell_bits: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plus(self) -> Floats:
        """G+ of the first digit and pair, in siemens: shape (groups, rows, columns)."""
        plus: Floats = self._cells[0, 0, 0]
        return plus

    @property
    def minus(self) -> Floats:
        """G- of the first digit and pair, likewise."""
        minus: Floats = self._cells[0, 1, 0]
        return minus

    @property
    def _cells(self) -> Floats:
        if self.conductances is None:
            raise ChipError(
                "this array has no conductances: the target describes no devices (give it "
                "'conductance', or see deviation for the weights it was programmed with)"
            )
        return self.conductances

    def tiles(self) -> tuple[tuple[Block, ...], ...]:
        """What lies on every tile: one block, or several blocks of a grouped product, diagonally.

        Without a tile size every block has a tile of its own. Digits, pairs and the two signs lie
        on tiles of their own, in the same places.
        """
        groups, rows, columns = self.matrix
        high, wide = self.tile or (rows, columns)
        together = min(high // rows, wide // columns)
        if together > 1 and self.tile is not None:
            return tuple(
                tuple(
                    Block(g, (0, rows), (0, columns), (g - first) * rows, (g - first) * columns)
                    for g in range(first, min(first + together, groups))
                )
                for first in range(0, groups, together)
            )
        return tuple(
            (Block(g, (top, min(top + high, rows)), (left, min(left + wide, columns))),)
            for g in range(groups)
            for top in range(0, ceil(rows / high) * high, high)
            for left in range(0, ceil(columns / wide) * wide, wide)
        )

    def on_tile(self, blocks: tuple[Block, ...], digit: int = 0, pair: int = 0) -> Floats:
        """G+ and G- on one of ``tiles()``: shape (2, rows, columns) in use; NaN without a cell."""
        cells = self._cells[digit, :, pair]
        parts = [cells[:, b.group, slice(*b.rows), slice(*b.columns)] for b in blocks]
        ends = [
            (b.top + p.shape[1], b.left + p.shape[2]) for b, p in zip(blocks, parts, strict=True)
        ]
        found = np.full((2, max(e[0] for e in ends), max(e[1] for e in ends)), np.nan)
        for block, part, (bottom, right) in zip(blocks, parts, ends, strict=True):
            found[:, block.top : bottom, block.left : right] = part
        return found


def _when(data: ArrayData) -> str:
    """When and under which conditions the cells were read; empty for right after programming."""
    said = data.settings.get("reading")
    if not isinstance(said, Mapping):
        return ""
    found = [f"{describe(said['time'])} later"] if said.get("time") else []
    found += [f"cycle {said['cycle']}"] if said.get("cycle") else []
    found += [f"at {name} {value:g}" for name, value in said.get("conditions", {}).items()]
    return f"; read {', '.join(found)}" if found else ""


Unit = Literal["S", "uS", "nS", "A", "nA"]
_UNITS: dict[str, float] = {"S": 1.0, "uS": 1e-6, "nS": 1e-9, "A": 1.0, "nA": 1e-9}


def _cells(region: str, plus: Any, minus: Any, unit: str) -> Floats:
    if unit not in _UNITS:
        raise ChipError(f"unit {unit!r} is unknown; allowed are {', '.join(_UNITS)}")
    both = [np.asarray(each, np.float64) for each in (plus, minus)]
    if both[1].shape == (*both[0].shape[:-1], 1):  # one reference column
        both[1] = np.broadcast_to(both[1], both[0].shape)
    if both[0].shape != both[1].shape or both[0].ndim not in (2, 3):
        raise ChipError(
            f"region '{region}': G+ has the shape {both[0].shape} and G- {both[1].shape}; both "
            "must be (rows, columns), or (groups, rows, columns); a reference column may have one"
        )
    cells: Floats = np.stack(both).reshape(1, 2, 1, -1, *both[0].shape[-2:]) * _UNITS[unit]
    return cells


def _matrix(cells: Floats) -> tuple[int, int, int]:
    groups, rows, columns = cells.shape[-3:]
    return groups, rows, columns


@dataclass(frozen=True, repr=False)
class Chip(Shown):
    """The cells of a model's arrays: read from a programmed chip, or measured.

    Attributes:
        arrays: by the name of the region that an array belongs to (the first of several).
        seed: draws the arrays that ``arrays`` lacks and the sound cells of defect maps; None: there
            are none.
        target: name of the target it was programmed for.
        name: what people call it.
    """

    arrays: Mapping[str, ArrayData]
    seed: int | None = None
    target: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.seed is not None:
            object.__setattr__(self, "seed", integer(self.seed))

    @classmethod
    def measured(
        cls,
        pairs: Mapping[str, tuple[Any, Any]],
        *,
        unit: Unit,
        seed: int | None = None,
        name: str = "",
    ) -> Chip:
        """A chip of measured conductances, a pair of matrices (G+, G-) for every region.

        Args:
            pairs: by region name; matrices of shape (rows, columns), or (groups, rows, columns) of
                a grouped product; NaN for dead cells. G- of shape (rows, 1) is a reference column.
            unit: of the values: ``"S"``, ``"uS"``, ``"nS"``, or ``"A"``, ``"nA"`` for targets whose
                cells are characterised by currents.
            seed: draws the regions that were not measured; None: all were.
            name: what to call the chip.

        Raises:
            ChipError: an unknown unit, or matrices that do not pair up.
        """
        found = {region: _cells(region, *both, unit) for region, both in pairs.items()}
        arrays = {
            region: ArrayData((), _matrix(cells), conductances=cells)
            for region, cells in found.items()
        }
        return cls(arrays, seed=seed, name=name)

    @classmethod
    def with_defects(
        cls, pairs: Mapping[str, tuple[Any, Any]], *, unit: Unit, seed: int, name: str = ""
    ) -> Chip:
        """Chip ``seed`` with defective cells: matrices as in ``measured``, NaN for sound cells.

        A value is the conductance that a defective cell has whatever is programmed: 0 for a dead
        one.
        """
        found = {region: _cells(region, *both, unit) for region, both in pairs.items()}
        arrays = {
            region: ArrayData((), _matrix(cells), defects=cells) for region, cells in found.items()
        }
        return cls(arrays, seed=seed, name=name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __getitem__(self, region: str) -> ArrayData:
        if region not in self.arrays:
            raise ChipError(
                f"the chip holds no region '{region}'; it holds {', '.join(self.arrays) or 'none'}"
            )
        return self.arrays[region]

    def with_array(self, region: str, **changes: Any) -> Chip:
        """A chip in which the data of ``region`` are changed."""
        arrays = dict(self.arrays)
        arrays[region] = replace(self[region], **changes)
        return replace(self, arrays=arrays)

    def only(self, *regions: str, seed: int | None = None) -> Chip:
        """The chip's data of some regions; ``seed`` draws the others when it is programmed."""
        return replace(self, arrays={name: self[name] for name in regions}, seed=seed)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a region: its size, its tiles, and its cells in siemens."""
        rows = []
        for name, data in self.arrays.items():
            groups, inputs, columns = data.matrix
            row: dict[str, Any] = {
                "region": name,
                "groups": groups,
                "rows": inputs,
                "columns": columns,
                "tiles": len(data.tiles()),
            }
            cells = data.conductances if data.conductances is not None else data.defects
            if cells is not None:
                known = cells[~np.isnan(cells)]
                row["lowest (S)"] = float(known.min()) if known.size else None
                row["highest (S)"] = float(known.max()) if known.size else None
                missing = int(np.isnan(cells).sum())
                row["dead cells"] = missing if data.defects is None else known.size
            rows.append(row)
        return rows

    def __str__(self) -> str:
        lines = [self._title()]
        for name, data in self.arrays.items():
            groups, rows, columns = data.matrix
            text = f"  {name}: {groups} x {rows} x {columns} on {len(data.tiles())} tile(s)"
            cells = data.conductances if data.conductances is not None else data.defects
            if cells is None:
                text += ", weights alone"
            else:
                known, dead = cells[~np.isnan(cells)], int(np.isnan(cells).sum())
                if known.size:
                    text += f", {known.min():.4g} to {known.max():.4g} S"
                text += f", {dead} {'dead' if data.defects is None else 'sound'} cells"
            lines.append(text + _when(data))
        if self.seed is not None:
            lines.append(f"  everything else is drawn as chip {self.seed}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self._title()}, {len(self.arrays)} regions; print() lists them>"

    def _title(self) -> str:
        return f"chip {self.name or '(no name)'}, target {self.target or 'unknown'}"
