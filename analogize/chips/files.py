"""Write a chip to npz, HDF5 or a folder of CSV files, and read it back equal."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from analogize.chips.folder import read_folder, require_empty, write_folder
from analogize.chips.parts import put_together, take_apart
from analogize.crossbar.chip_data import Chip, Floats
from analogize.errors import ChipError
from analogize.files.writing import writing

_HDF5 = (".h5", ".hdf5")
# No region is called so, and an attribute of HDF5 would hold 64 KiB only.
_HEADER = "__header__"


def save_chip(chip: Chip, path: str | os.PathLike[str]) -> None:
    """Write ``chip``: ``.npz``, ``.h5`` or ``.hdf5`` (with h5py), or a folder of CSV files.

    Args:
        chip: from ``read_chip``, or made of measurements.
        path: the file; a name without suffix is a folder, which must not hold anything yet.

    Raises:
        ChipError: another suffix, no h5py, or a file that cannot be written.
    """
    file = Path(path)
    header, arrays = take_apart(chip)
    if file.suffix not in (".npz", "", *_HDF5):
        raise _unknown(file)
    if not file.suffix:
        require_empty(file)
    with writing(file, "the chip", ChipError) as draft:
        if file.suffix == ".npz":
            text = np.array(json.dumps(header))
            with draft.open("wb") as stream:
                np.savez_compressed(stream, **{_HEADER: text}, **arrays)  # type: ignore[arg-type]
        elif file.suffix in _HDF5:
            _write_hdf5(draft, header, arrays)
        else:
            write_folder(draft, chip)


def load_chip(path: str | os.PathLike[str]) -> Chip:
    """Read what ``save_chip`` wrote, or a folder in its layout.

    Raises:
        ChipError: the file cannot be read, or is no chip.
    """
    file = Path(path)
    try:
        if file.is_dir():
            return read_folder(file)
        if file.suffix == ".npz":
            return put_together(*_read_npz(file), str(file))
        if file.suffix in _HDF5:
            return put_together(*_read_hdf5(file), str(file))
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as cause:
        raise ChipError(f"cannot read a chip from {file}: {cause}") from cause
    raise _unknown(file)


def _unknown(file: Path) -> ChipError:
    return ChipError(
        f"{file}: a chip is a .npz, .h5 or .hdf5 file, or a folder of CSV files (no suffix)"
    )


def _read_npz(file: Path) -> tuple[Any, dict[str, Floats]]:
    with np.load(file, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files if name != _HEADER}
        return json.loads(str(held[_HEADER])), arrays


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as cause:
        raise ChipError(
            "HDF5 files need h5py: pip install h5py, or use .npz, or a folder of CSV files"
        ) from cause
    return h5py  # type: ignore[no-any-return]


def _write_hdf5(file: Path, header: dict[str, Any], arrays: dict[str, Floats]) -> None:
    with _h5py().File(file, "w") as held:
        held[_HEADER] = json.dumps(header)
        for name, values in arrays.items():
            held[name] = values
            if name.endswith(("/conductances", "/defects")):
                held[name].attrs["unit"] = "S"
                held[name].attrs["axes"] = "digits, sign (G+, G-), pairs, groups, rows, columns"


def _read_hdf5(file: Path) -> tuple[Any, dict[str, Floats]]:
    h5py = _h5py()
    with h5py.File(file, "r") as held:
        arrays: dict[str, Floats] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and name != _HEADER:
                arrays[name] = np.asarray(item[()], np.float64)

        held.visititems(visit)
        return json.loads(held[_HEADER].asstr()[()]), arrays
