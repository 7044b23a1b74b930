"""A region's entry in the manifest as the product and the target it was made from."""

from __future__ import annotations

from typing import Literal

from analogize.errors import ExportError
from analogize.onnx.manifest import ConverterEntry, RegionEntry, TileEntry
from analogize.product import BatchedLinear, Convolution, Linear, Product
from analogize.targets import spec

# Attributes of a convolution, and the least that each may be.
_LEAST = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}


def product_of(entry: RegionEntry) -> Product:
    """The product that a region computes.

    Raises:
        ExportError: attributes that no such product has, or that do not fit the weights' shape.
    """
    shape = entry.weight.shape
    if min(shape, default=1) < 0:
        raise ExportError(f"its weights have the shape {shape}; sizes start at 0")
    if entry.kind == "linear":
        _require_rank(entry, len(shape) in (1, 2), "1 or 2")
        return Linear()
    if entry.kind == "batched_linear":
        _require_rank(entry, len(shape) > 2, "3 or more")
        return BatchedLinear(shape[:-2])
    values = entry.attributes
    dimensions = int(entry.kind[-2])
    _require_rank(entry, len(shape) == dimensions + 2, f"{dimensions + 2}")

    def sizes(key: str) -> tuple[int, ...]:
        found = values.get(key, (0,))
        several = found if isinstance(found, tuple) else (found,)
        if len(several) not in (1, dimensions) or min(several, default=0) < _LEAST[key]:
            raise ExportError(
                f"its attribute {key} is {found}; a {entry.kind} takes 1 or {dimensions} numbers "
                f"from {_LEAST[key]}"
            )
        return several

    groups = values.get("groups", 1)
    if not isinstance(groups, int) or groups < 1 or shape[0] % groups:
        raise ExportError(f"its attribute groups is {groups}; it must divide {shape[0]} channels")
    return Convolution(
        entry.kind,
        stride=sizes("stride"),
        padding=sizes("padding"),
        dilation=sizes("dilation"),
        transposed="transpose" in entry.kind,
        output_padding=sizes("output_padding"),
        groups=groups,
    )


def _require_rank(entry: RegionEntry, fits: bool, wanted: str) -> None:
    if not fits:
        raise ExportError(
            f"its weights have the shape {entry.weight.shape}; those of a {entry.kind} have "
            f"{wanted} dimensions"
        )


def target_of(entry: RegionEntry, name: str) -> spec.Target:
    """A target with this region's settings; its ranges are placeholders, filled in afterwards."""
    weight = entry.weight
    return spec.Target(
        name=name,
        weights=spec.Weights(
            range=None if weight.range is None else spec.FixedRange(min=-1.0, max=1.0),
            bits=weight.bits,
            granularity=weight.granularity,
            grid=weight.grid,
        ),
        conductance=entry.noise.conductance,
        noise=entry.noise.models,
        dac=_converter(entry.dac),
        adc=_converter(entry.adc),
        array=_tile(entry.tiles),
    )


def _tile(entry: TileEntry) -> spec.Array | None:
    if entry.tile is None:
        return None
    return spec.Array(
        rows=entry.tile[0],
        cols=entry.tile[1],
        tiling=entry.converts,
        cell_bits=entry.cell_bits,
        input_bits=entry.input_bits,
    )


def _converter(entry: ConverterEntry | None) -> spec.Converter:
    if entry is None:
        return spec.Converter()
    if entry.range is None:
        return spec.Converter(bits=entry.bits, grid=entry.grid, range=spec.FullRange())
    if entry.extent == "vector":
        return spec.Converter(bits=entry.bits, grid=entry.grid, range=spec.VectorRange())
    if entry.extent == "tensor":
        fixed = spec.FixedRange(min=-1.0, max=1.0)
        return spec.Converter(bits=entry.bits, grid=entry.grid, range=fixed)
    granularity: Literal["tensor", "channel"] = "channel" if entry.extent == "channel" else "tensor"
    return spec.Converter(bits=entry.bits, grid=entry.grid, granularity=granularity)
