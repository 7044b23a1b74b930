"""A region's entry in the manifest as the product and the target it was made from."""

from __future__ import annotations

from analogize.onnx.manifest import ConverterEntry, RegionEntry, TileEntry
from analogize.product import BatchedLinear, Convolution, Linear, Product
from analogize.targets import spec


def product_of(entry: RegionEntry) -> Product:
    """The product that a region computes."""
    if entry.kind == "linear":
        return Linear()
    if entry.kind == "batched_linear":
        return BatchedLinear(entry.weight.shape[:-2])
    values = entry.attributes

    def sizes(key: str) -> tuple[int, ...]:
        found = values.get(key, (0,))
        return found if isinstance(found, tuple) else (found,)

    groups = values["groups"]
    assert isinstance(groups, int)
    return Convolution(
        entry.kind,
        stride=sizes("stride"),
        padding=sizes("padding"),
        dilation=sizes("dilation"),
        transposed="transpose" in entry.kind,
        output_padding=sizes("output_padding"),
        groups=groups,
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
    return spec.Converter(bits=entry.bits, grid=entry.grid)
