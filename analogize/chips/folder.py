"""A chip as a folder: ``chip.json``, and for every region a folder with two CSV files a tile.

    chip.json                             the header (parts.py) and the shapes of the other arrays
    REGION/digit0_pair0_tile0_plus.csv    G+ on the tile in siemens: a line a row, a value a column
    REGION/digit0_pair0_tile0_minus.csv   G-, likewise
    REGION/defects_digit0_...             the same of a defect map
    REGION/deviation.csv, full.csv, ...   the other arrays, a line for each run of the last axis

``nan`` is a dead cell (in a defect map: a sound one), an empty value a place without a cell. Region
names are percent-encoded where a folder cannot have them.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from analogize.chips.parts import CELLS, OTHERS, put_together, take_apart
from analogize.crossbar.chip_data import ArrayData, Chip, Floats
from analogize.errors import ChipError

_HEADER = "chip.json"
_SIGNS = ("plus", "minus")


def require_empty(folder: Path) -> None:
    """Refuse a place where something is.

    Raises:
        ChipError: it is neither new nor an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChipError(f"{folder} exists and is not empty; name another folder, or delete it")


def write_folder(folder: Path, chip: Chip) -> None:
    """Write ``chip`` into the new ``folder``."""
    header, arrays = take_apart(chip)
    shapes = {name: list(values.shape) for name, values in arrays.items()}
    folder.mkdir()
    text = json.dumps(header | {"shapes": shapes}, indent=1)
    (folder / _HEADER).write_text(text + "\n", encoding="utf-8")
    for name, data in chip.arrays.items():
        place = folder / quote(name, safe="")
        place.mkdir()
        for key in CELLS:
            cells = getattr(data, key)
            if cells is not None:
                _write_cells(place, "" if key == CELLS[0] else f"{key}_", data, cells)
        for key in OTHERS:
            values = arrays.get(f"{name}/{key}")
            if values is not None:
                lines = values.reshape(-1, values.shape[-1] if values.ndim else 1)
                _write(place / f"{key}.csv", lines, np.ones(lines.shape, bool))


def read_folder(folder: Path) -> Chip:
    """The chip in ``folder``.

    Raises:
        ChipError: a file is missing or is no table of numbers; the message names it.
    """
    try:
        header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
        shapes = header["shapes"]
        bare = put_together(header, {}, str(folder / _HEADER))
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ChipError(f"cannot read a chip from {folder / _HEADER}: {cause!r}") from cause
    arrays: dict[str, Floats] = {}
    for path, shape in shapes.items():
        name, _, key = path.rpartition("/")
        place = folder / quote(name, safe="")
        if key in CELLS:
            prefix = "" if key == CELLS[0] else f"{key}_"
            arrays[path] = _read_cells(place, prefix, bare[name], shape)
        else:
            arrays[path] = _read(place / f"{key}.csv").reshape(shape)
    return put_together(header, arrays, str(folder))


def _file(place: Path, prefix: str, digit: int, pair: int, tile: int, sign: str) -> Path:
    return place / f"{prefix}digit{digit}_pair{pair}_tile{tile}_{sign}.csv"


def _write_cells(place: Path, prefix: str, data: ArrayData, cells: Floats) -> None:
    held = replace(data, conductances=cells)
    everywhere = replace(data, conductances=np.zeros_like(cells))
    for digit in range(cells.shape[0]):
        for pair in range(cells.shape[2]):
            for number, blocks in enumerate(data.tiles()):
                used = ~np.isnan(everywhere.on_tile(blocks, digit, pair))
                values = held.on_tile(blocks, digit, pair)
                for sign, name in enumerate(_SIGNS):
                    file = _file(place, prefix, digit, pair, number, name)
                    _write(file, values[sign], used[sign])


def _read_cells(place: Path, prefix: str, data: ArrayData, shape: Any) -> Floats:
    cells = np.full(shape, np.nan)
    for digit in range(cells.shape[0]):
        for pair in range(cells.shape[2]):
            for number, blocks in enumerate(data.tiles()):
                for sign, name in enumerate(_SIGNS):
                    file = _file(place, prefix, digit, pair, number, name)
                    values = _read(file)
                    for block in blocks:
                        high = block.rows[1] - block.rows[0]
                        wide = block.columns[1] - block.columns[0]
                        part = values[block.top : block.top + high, block.left : block.left + wide]
                        if part.shape != (high, wide):
                            raise ChipError(
                                f"{file}: {values.shape[0]} lines of {values.shape[1]} values are "
                                f"too few for a tile of {block.top + high} x {block.left + wide}"
                            )
                        rows, columns = slice(*block.rows), slice(*block.columns)
                        cells[digit, sign, pair, block.group, rows, columns] = part
    return cells


def _write(file: Path, values: Floats, used: Any) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for line, cells in zip(values.tolist(), used.tolist(), strict=True):
            writer.writerow([repr(v) if cell else "" for v, cell in zip(line, cells, strict=True)])


def _read(file: Path) -> Floats:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [
                [_number(text, file, number) for text in line]
                for number, line in enumerate(csv.reader(stream), start=1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise ChipError(f"cannot read {file}: {cause}") from cause
    if len({len(row) for row in rows}) > 1:
        raise ChipError(f"{file}: its lines have different numbers of values")
    return np.array(rows, np.float64).reshape(len(rows), -1)


def _number(text: str, file: Path, line: int) -> float:
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError as cause:
        raise ChipError(
            f"{file}, line {line}: {text!r} is no number; give siemens, nan, or nothing"
        ) from cause
