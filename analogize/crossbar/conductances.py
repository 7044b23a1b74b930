"""Between an array's weights and the conductances of its cells, drawn or given.

clean weights --to_cells--> conductances (digits, 2, pairs, *weights) --to_weights--> weights
conductances --to_data--> ArrayData in crossbar layout, in siemens --from_data--> conductances
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from analogize.crossbar.chip_data import ArrayData, Floats, WeightMapping
from analogize.devices.cells import Reading, read_cells
from analogize.devices.compensation import is_of_tiles
from analogize.devices.conductance import from_cells
from analogize.devices.layout import Layout
from analogize.errors import ChipError
from analogize.product import from_channels, per_channel
from analogize.quantize import Bound
from analogize.targets.conductance import Conductance
from analogize.targets.noise import NoiseModel

if TYPE_CHECKING:
    from analogize.crossbar.array import WeightArray

# Siemens in a microsiemens, amperes in a nanoampere.
UNIT = {"uS": 1e-6, "nA": 1e-9}
_MISTAKEN_UNIT = 100.0


@dataclass(frozen=True)
class Drawn:
    """How an array's part of a chip was drawn, so that its cells can be drawn again.

    Attributes:
        reading: chip, time and cycle.
        noise: the models, which a block of ``noise_level`` may have set.
    """

    reading: Reading
    noise: tuple[NoiseModel, ...]


def scale_of_cells(array: WeightArray, clean: Tensor) -> tuple[Bound, Tensor | None]:
    """What takes the whole conductance range, and a factor on what cells stand for (or None)."""
    mapping = array.conductance
    if mapping is None or mapping.scale != "column":
        return array.full, None
    return scale_of_columns(array, per_channel(array.product, clean).abs().amax(1))


def scale_of_columns(array: WeightArray, largest: Tensor) -> tuple[Bound, Tensor]:
    """As ``scale_of_cells``, of columns whose largest weight is known, viewed against the weights.

    A column of zeros is multiplied by zero, its own scale; its cells are asked for any other.
    """
    full = array.product.channels(largest.where(largest > 0, 1), array.shape)
    return full, array.product.channels(largest.sign(), array.shape)


def simulate_cells(
    array: WeightArray, clean: Tensor, full: Bound, factor: Tensor | None, reading: Reading
) -> Tensor:
    """The weights that one digit's cells stand for when read; shapes as ``clean``.

    Args:
        array: the array.
        clean: all weights, or a block of them where every device is drawn by itself.
        full: from ``scale_of_cells``, as ``factor``, of these weights.
        factor: likewise.
        reading: of the cells.
    """
    assert array.conductance is not None, "the target's schema asks for it"
    read = cells_of_digit(array, clean, full, Drawn(reading, array.noise))
    weights = from_cells(read, full, array.conductance)
    return weights if factor is None else weights * factor


def cells_of_digit(array: WeightArray, clean: Tensor, full: Bound, drawn: Drawn) -> Tensor:
    """The conductances of one digit's cells: shape (2, pairs, *weights), in the target's unit."""
    assert array.conductance is not None, "the target's schema asks for it"
    layout = array.layout
    if layout is None and array.conductance.encoding == "offset":
        # Without a size there is one reference column a block of the matrix.
        _, rows, columns = array.product.matrix(array.shape)
        layout = Layout(array.product, array.shape, rows, columns)
    return read_cells(
        clean, full, array.conductance, drawn.noise, drawn.reading, array.name, layout
    )


def to_cells(array: WeightArray, clean: Tensor, drawn: Drawn) -> Tensor:
    """The conductances of all cells: shape (digits, 2, pairs, *weights)."""
    full, _ = scale_of_cells(array, clean)
    if array.cell_bits is None:
        return cells_of_digit(array, clean, full, drawn).unsqueeze(0)
    parts = [
        replace(drawn, reading=drawn.reading.of_digit(index))
        for index in range(array.cells_a_weight)
    ]
    digits = zip(array.digits(clean), parts, strict=True)
    return torch.stack([cells_of_digit(array, digit, full, part) for digit, part in digits])


def to_weights(array: WeightArray, cells: Tensor, full: Bound, mapping: Conductance) -> Tensor:
    """The weights that all cells stand for, digits first where cells hold digits."""
    held = [from_cells(digit, full, mapping) for digit in cells.nan_to_num(0.0)]
    return held[0] if array.cell_bits is None else torch.stack(held)


def to_data(
    array: WeightArray,
    clean: Tensor,
    chip: Tensor,
    drawn: Drawn,
    defects: Floats | None = None,
) -> ArrayData:
    """The chip of one array as data; ``from_data`` gives the same weights back, bit for bit.

    Args:
        array: the array.
        clean: the weights that it was programmed from, in array units.
        chip: what it multiplies with.
        drawn: how that was drawn.
        defects: cells that took the place of drawn ones, in siemens; NaN elsewhere.
    """
    layout, correction = array.layout, array.correction
    data = ArrayData(
        shape=tuple(array.shape),
        matrix=array.product.matrix(array.shape),
        tile=None if layout is None else (layout.rows, layout.cols),
        cell_bits=array.cell_bits,
        correction=None if correction is None else _correction(array, correction),
    )
    stacked, own, unit = _stacked(array, chip).double(), array.conductance, _unit(array)
    if own is None:
        mapping = WeightMapping(0.0, 0.0, np.array(0.0), unit)
        return replace(data, mapping=mapping, deviation=_numpy(_matrices(array, stacked)))
    full, factor = scale_of_cells(array, clean)
    siemens = _numpy(_matrices(array, to_cells(array, clean, drawn))) * UNIT[own.unit]
    if defects is not None:
        siemens = np.where(np.isnan(defects), siemens, defects)
    ends = own.g_min * UNIT[own.unit], own.g_max * UNIT[own.unit]
    scale = _per_column(array, full, factor, clean)
    mapping = WeightMapping(*ends, scale, unit, own.encoding, own.significance)
    data = replace(data, conductances=siemens, mapping=mapping)
    # What rounding and noise on weights leave is kept too, so that nothing is lost.
    beyond = stacked - _stacked(array, _held(array, data, chip)).double()
    if not bool(beyond.any()):
        return data
    return replace(data, deviation=_numpy(_matrices(array, beyond)))


def _correction(array: WeightArray, correction: Tensor) -> Floats:
    rows = len(correction) if is_of_tiles(correction, array.product) else 0
    return _numpy(correction).reshape((rows, -1) if rows else -1)


def from_data(array: WeightArray, data: ArrayData, like: Tensor, name: str) -> Tensor:
    """The weights in array units that given cells stand for, digits first where there are some.

    Args:
        array: the array.
        data: its cells.
        like: the model's weight: device and dtype.
        name: of the array, for errors.

    Raises:
        ChipError: shapes that do not fit, or conductances in another unit.
    """
    _check(array, data, name)
    held = None if data.conductances is None else _held(array, data, like)
    if data.deviation is None:
        assert held is not None, "checked"
        return held
    beyond = _from_matrices(array, torch.from_numpy(data.deviation))
    if held is not None:
        beyond = beyond + _stacked(array, held).double().cpu()
    weights = beyond.to(like.device, like.dtype)
    return weights if array.cell_bits is not None else weights[0]


def with_defects(
    array: WeightArray, clean: Tensor, chip: Tensor, drawn: Drawn, data: ArrayData, name: str
) -> Tensor:
    """``chip`` with the cells of a defect map in place of what was drawn for them."""
    assert data.defects is not None, "asked for where there are some"
    if array.conductance is None:
        raise ChipError(
            f"region '{name}': a defect map is about cells, and the target describes none; give it "
            "'conductance'"
        )
    _check_cells(array, data.defects, name, "defects")
    full, factor = scale_of_cells(array, clean)
    sound = to_cells(array, clean, drawn)
    raw = torch.from_numpy(data.defects / UNIT[array.conductance.unit])
    defects = _from_matrices(array, raw).to(clean.device, clean.dtype)
    changed = torch.where(defects.isnan(), sound, defects)
    before, after = (to_weights(array, c, full, array.conductance) for c in (sound, changed))
    moved = (after - before) if factor is None else (after - before) * factor
    return torch.where(moved == 0, chip, chip + moved)


def _held(array: WeightArray, data: ArrayData, like: Tensor) -> Tensor:
    """What the cells of ``data`` stand for, in array units."""
    mapping, own = data.mapping, array.conductance
    assert data.conductances is not None, "asked for where there are some"
    unit = UNIT["uS" if own is None else own.unit]
    if mapping is None:
        assert own is not None, "checked"
        mapping_here, full = own, array.full
    else:
        low, high = mapping.g_min / unit, mapping.g_max / unit
        pairs = data.conductances.shape[2]
        there = mapping.g_min, mapping.g_max, pairs, mapping.encoding, mapping.significance
        mapping_here = Conductance(
            g_min=low,
            g_max=high,
            pairs=pairs,
            encoding=mapping.encoding,
            significance=mapping.significance,
        )
        if own is not None and there == (
            own.g_min * unit,
            own.g_max * unit,
            own.pairs,
            own.encoding,
            own.significance,
        ):
            mapping_here = own  # its ends are exact
        full = _full_here(array, mapping, like)
    cells = _from_matrices(array, torch.from_numpy(data.conductances / unit))
    return to_weights(array, cells.to(like.device, like.dtype), full, mapping_here)


def _full_here(array: WeightArray, mapping: WeightMapping, like: Tensor) -> Bound:
    """``mapping.full`` in this array's units, viewed against its weights."""
    here = _unit(array)
    full = (
        mapping.full if np.array_equal(mapping.unit, here) else mapping.full * mapping.unit / here
    )
    if full.ndim == 0:
        return float(full)
    values = torch.from_numpy(np.ascontiguousarray(full)).to(like.device, like.dtype)
    return array.product.channels(values, array.shape)


def _per_column(array: WeightArray, full: Bound, factor: Tensor | None, clean: Tensor) -> Floats:
    if not isinstance(full, Tensor):
        return np.array(float(full))
    if full.ndim == 0:
        return _numpy(full)
    whole = full if factor is None else full * factor
    return _numpy(per_channel(array.product, whole.expand(clean.shape))[:, 0])


def _unit(array: WeightArray) -> Floats:
    """Weight units in one array unit: a number, or one a column."""
    if array.scale is None or array.folded:
        return np.array(1.0)
    return _numpy(array.scale)


def _matrices(array: WeightArray, values: Tensor) -> Tensor:
    """Weights with leading dimensions as matrices: shape (..., groups, rows, columns)."""
    lead = values.shape[: values.ndim - len(array.shape)]
    groups, rows, columns = array.product.matrix(array.shape)
    flat = values.reshape(-1, *array.shape)
    found = torch.stack([per_channel(array.product, each) for each in flat])
    return found.view(-1, groups, columns, rows).mT.reshape(*lead, groups, rows, columns)


def _from_matrices(array: WeightArray, values: Tensor) -> Tensor:
    """Inverse of ``_matrices``."""
    lead, (groups, rows, columns) = values.shape[:-3], values.shape[-3:]
    flat = values.reshape(-1, groups, rows, columns).mT.reshape(-1, groups * columns, rows)
    found = torch.stack([from_channels(array.product, each, array.shape) for each in flat])
    return found.view(*lead, *array.shape)


def _stacked(array: WeightArray, weights: Tensor) -> Tensor:
    """Digits first, with one digit where cells hold whole weights."""
    return weights if array.cell_bits is not None else weights.unsqueeze(0)


def _numpy(values: Tensor) -> Floats:
    return values.detach().double().cpu().numpy()


def _check(array: WeightArray, data: ArrayData, name: str) -> None:
    if data.conductances is None and data.deviation is None:
        raise ChipError(f"region '{name}': the chip holds neither conductances nor weights")
    if data.deviation is not None:
        groups, rows, columns = array.product.matrix(array.shape)
        _check_shape(data.deviation, (array.cells_a_weight, groups, rows, columns), name)
    if data.conductances is None:
        return
    if data.mapping is None and array.conductance is None:
        raise ChipError(
            f"region '{name}': what these conductances stand for is not known; give the target "
            "'conductance', or the data a mapping"
        )
    _check_cells(array, data.conductances, name, "conductances")


def _check_cells(array: WeightArray, cells: Floats, name: str, what: str) -> None:
    groups, rows, columns = array.product.matrix(array.shape)
    pairs = cells.shape[2] if cells.ndim == 6 else 1
    _check_shape(cells, (array.cells_a_weight, 2, pairs, groups, rows, columns), name)
    if np.isinf(cells).any() or (np.nan_to_num(cells) < 0).any():
        raise ChipError(f"region '{name}': {what} must be numbers of at least 0, or NaN")
    own = array.conductance
    if own is None or np.isnan(cells).all():
        return
    unit, largest = UNIT[own.unit], float(np.nanmax(cells))
    if largest > _MISTAKEN_UNIT * own.g_max * unit:
        raise ChipError(
            f"region '{name}': {what} reach {largest:.3g}, and the target's devices end at "
            f"{own.g_max * unit:.3g} S; give siemens (1 uS is 1e-6)"
        )


def _check_shape(found: Floats, wanted: tuple[int, ...], name: str) -> None:
    if found.shape == wanted:
        return
    devices = "2 (G+ and G-), pairs, " if len(wanted) == 6 else ""
    raise ChipError(
        f"region '{name}': the chip's data have the shape {found.shape} instead of {wanted} "
        f"(digits, {devices}groups, rows, columns)"
    )
