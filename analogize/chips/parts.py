"""A chip as a header of plain values and named arrays, which every kind of file stores.

header   {"format": "analogize chip", "version": 1, "name", "target", "seed",
"arrays": {REGION: {"shape", "matrix", "tile", "cell_bits", "settings",
"g_min", "g_max", "encoding", "significance"}}}
version 2: cells that are no plain pairs, which version 1 does not know
arrays   REGION/conductances, REGION/defects   siemens, (digits, 2, pairs, groups, rows, columns)
REGION/deviation                      array units, (digits, groups, rows, columns)
REGION/full, REGION/unit              array units of g_max - g_min; weights a unit
REGION/correction                     factor on the outputs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analogize.crossbar.chip_data import ArrayData, Chip, Floats, WeightMapping
from analogize.errors import ChipError

FORMAT, VERSIONS = "analogize chip", (1, 2)
# Names of arrays of cells, which CSV splits into tiles, and of the others.
CELLS = ("conductances", "defects")
OTHERS = ("deviation", "correction", "full", "unit")


def take_apart(chip: Chip) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Header and arrays of ``chip``."""
    described: dict[str, dict[str, Any]] = {}
    arrays, version = {}, 1
    for name, data in chip.arrays.items():
        mapping = data.mapping
        described[name] = {
            "shape": list(data.shape),
            "matrix": list(data.matrix),
            "tile": None if data.tile is None else list(data.tile),
            "cell_bits": data.cell_bits,
            "settings": dict(data.settings),
            "g_min": None if mapping is None else mapping.g_min,
            "g_max": None if mapping is None else mapping.g_max,
        }
        if mapping is not None and (mapping.encoding != "pair" or mapping.significance):
            version = 2
            said = {"encoding": mapping.encoding, "significance": mapping.significance}
            described[name] |= said
        for key in (*CELLS, "deviation", "correction"):
            value = getattr(data, key)
            if value is not None:
                arrays[f"{name}/{key}"] = value
        if mapping is not None:
            arrays[f"{name}/full"], arrays[f"{name}/unit"] = mapping.full, mapping.unit
    header = {"format": FORMAT, "version": version, "name": chip.name, "target": chip.target}
    return header | {"seed": chip.seed, "arrays": described}, arrays


def put_together(header: Any, arrays: Mapping[str, Floats], file: str) -> Chip:
    """The chip of ``take_apart``'s result.

    Raises:
        ChipError: it is none, or not complete; the message names file and key.
    """
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ChipError(f'{file} is no chip: its header does not say "format": "{FORMAT}"')
    if header.get("version") not in VERSIONS:
        raise ChipError(
            f"{file}: version {header.get('version')!r} of the layout is unknown; this analogize "
            f"reads {' and '.join(map(str, VERSIONS))}"
        )
    try:
        found = {
            name: _array(name, described, arrays) for name, described in header["arrays"].items()
        }
        seed = header.get("seed")
        return Chip(
            found,
            seed=None if seed is None else int(seed),
            target=str(header.get("target", "")),
            name=str(header.get("name", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise ChipError(f"{file}: the chip is not complete: {cause!r}") from cause


def _array(name: str, described: dict[str, Any], arrays: Mapping[str, Floats]) -> ArrayData:
    def get(key: str) -> Floats | None:
        value = arrays.get(f"{name}/{key}")
        return None if value is None else np.asarray(value, np.float64)

    full, unit, mapping = get("full"), get("unit"), None
    if full is not None and unit is not None:
        encoding, factors = described.get("encoding", "pair"), described.get("significance")
        if encoding not in ("pair", "offset"):
            raise ValueError(f"the encoding {encoding!r} of '{name}' is unknown")
        significance = None if factors is None else tuple(map(float, factors))
        ends = float(described["g_min"]), float(described["g_max"])
        mapping = WeightMapping(*ends, full, unit, encoding, significance)
    tile, bits = described["tile"], described["cell_bits"]
    groups, rows, columns = map(int, described["matrix"])
    return ArrayData(
        shape=tuple(map(int, described["shape"])),
        matrix=(groups, rows, columns),
        conductances=get("conductances"),
        deviation=get("deviation"),
        defects=get("defects"),
        mapping=mapping,
        correction=get("correction"),
        tile=None if tile is None else (int(tile[0]), int(tile[1])),
        cell_bits=None if bits is None else int(bits),
        settings=described.get("settings", {}),
    )
