"""The manifest: what a file says about its analog regions, as JSON in the model's metadata.

It is the source of truth: model metadata survive every ONNX tool, node metadata do not. Numbers
are float32 values written in full, so that reading them back gives the same bits.

    ai.analogize.schema      version of this schema
    ai.analogize.target      name of the target
    ai.analogize.manifest    the ``Manifest`` below
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analogize.errors import ExportError
from analogize.targets.conductance import Conductance
from analogize.targets.spec import NoiseModel, Operator

SCHEMA_VERSION: Final = 1
DOMAIN: Final = "ai.analogize"
SCHEMA_KEY: Final = f"{DOMAIN}.schema"
TARGET_KEY: Final = f"{DOMAIN}.target"
MANIFEST_KEY: Final = f"{DOMAIN}.manifest"
REGION_KEY: Final = f"{DOMAIN}.region.id"
ROLE_KEY: Final = f"{DOMAIN}.region.role"
REASON_KEY: Final = f"{DOMAIN}.digital.reason"
# onnxruntime's own key for annotated partitioning (session.layer_assignment_settings).
LAYER_KEY: Final = "layer_ann"

Form = Literal["flat", "functions"]
Arithmetic = Literal["float", "integer", "qdq", "plain"]
GridKind = Literal["affine", "symmetric"]
Extent = Literal["tensor", "array", "channel", "vector"]
# What a region computes: an operator of the target's schema, or linear products side by side,
# y[..., g, t, n] = sum_k x[..., g, t, k] w[g, n, k].
Kind = Operator | Literal["batched_linear"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConverterEntry(_Part):
    """A DAC or an ADC: ``clamp(round(v / scale), low, high)``, a zero-centred code.

    Of a DAC with a range for every vector, ``range`` and ``scale`` are those of a vector that spans
    1, and ``low`` and ``high`` the codes that any vector may have; the range reaches from a
    vector's smallest value or 0 to its largest or 0 (affine), or around 0 to its largest magnitude.
    """

    bits: int = Field(ge=1, le=16, description="Resolution.")
    grid: GridKind = Field(description="affine: with a zero point; symmetric: around zero.")
    extent: Extent = Field(
        default="tensor",
        description="Whose range it is. tensor: of all values; array: of all columns as each "
        "counts, in the units of the column with the widest weights; channel: one an output "
        "channel; vector: one an input vector, found at run time.",
    )
    range: tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]] | None = Field(
        description="Minimum and maximum; null: every sum that a tile can produce."
    )
    scale: float | tuple[float, ...] = Field(
        description="Step in the units of the tensor; one number, or one an output channel."
    )
    low: int | tuple[int, ...] = Field(description="Smallest zero-centred code.")
    high: int | tuple[int, ...] = Field(description="Largest zero-centred code.")
    step: float | tuple[float, ...] | None = Field(
        default=None,
        description="ADC only: step in accumulated codes, float32(scale / (s_x s_w)); one number, "
        "or one an output channel.",
    )


class WeightEntry(_Part):
    """What the array holds, and where the file keeps it."""

    initializer: str = Field(description="Name of the tensor in the file.")
    parameter: str = Field(description="Name of the parameter in the model it was exported from.")
    shape: tuple[int, ...] = Field(description="Shape of the parameter.")
    transposed: bool = Field(description="Whether the file keeps it as its transpose.")
    cell_bits: int | None = Field(
        default=None,
        description="null: the initializer holds whole weights. A number: it holds what the cells "
        "of a programmed chip hold, least significant digit first along a further first dimension; "
        "a weight is the sum of digit k times 2^(k cell_bits).",
    )
    bits: int | None = Field(description="Resolution; null: not quantized.")
    grid: GridKind = Field(description="Kind of grid.")
    granularity: Literal["tensor", "channel"] = Field(description="Extent of one range.")
    channel_axis: int | None = Field(
        description="The parameter's axis of output channels; null where several axes make them "
        "up: groups and axis 1 (transposed convolution), or all but the last (batched_linear)."
    )
    range: tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]] | None = Field(
        description="[W_min, W_max], numbers or one a channel; null: not clipped."
    )
    scale: float | tuple[float, ...] | None = Field(description="Step; null: not quantized.")
    low: int | tuple[int, ...] | None = Field(description="Smallest zero-centred code.")
    high: int | tuple[int, ...] | None = Field(description="Largest zero-centred code.")
    folded: bool = Field(
        description="Whether the product works in weight units instead of codes: the case where "
        "neither a DAC nor an ADC has bits."
    )
    storage: str = Field(description="ONNX type of the initializer.")
    digest: str = Field(
        description="BLAKE2b, 16 bytes in hexadecimal, of the initializer's numbers as float32, "
        "row by row."
    )
    zero_point: int | tuple[int, ...] | None = Field(
        description="What to subtract from the initializer to get zero-centred codes; null: the "
        "initializer holds values, not codes."
    )


class NoiseEntry(_Part):
    """The weight noise of the target, and what of it is in the file."""

    models: tuple[NoiseModel, ...] = Field(description="As in the target; they add up.")
    sigma: tuple[float | tuple[float, ...] | None, ...] = Field(
        description="Standard deviation of each model in weight units, or one a channel; null for "
        "a model that acts on conductances or products."
    )
    conductance: Conductance | None = Field(
        default=None, description="How weights become conductances, as in the target."
    )
    exported: Literal["none", "runtime", "programmed"] = Field(
        description="none: clean weights; runtime: the graph draws noise at every run; "
        "programmed: the initializer holds the weights of one chip."
    )


class SumEntry(_Part):
    """One row of tiles, whose columns sum up analog and are converted on their own."""

    rows: tuple[int, int] = Field(
        description="First row of each matrix and one past the last; a convolution's rows are in "
        "im2col order, row = channel * taps + tap."
    )
    inputs: tuple[int, int] = Field(
        description="First input (channel within a group) and one past the last."
    )


class TileEntry(_Part):
    """How the weight matrix lies on crossbar tiles.

    Where ``sums`` is not empty, the region's nodes are named ``mac/tile<i>`` after its i-th entry,
    with ``_x<j>`` for the j-th digit of the input and ``_w<k>`` for that of the weight.
    """

    groups: int = Field(description="Independent matrices (grouped convolutions).")
    rows: int = Field(description="Rows K of each matrix: inputs of one sum.")
    columns: int = Field(description="Columns N of each matrix: outputs.")
    tile: tuple[int, int] | None = Field(description="Rows and columns of a tile; null: no limit.")
    grid: tuple[int, int] | None = Field(description="Tiles down and across, each matrix.")
    count: int | None = Field(
        default=None,
        description="Tiles in all, for every pair of cells of a weight; small groups share one.",
    )
    converts: bool = Field(
        default=False,
        description="Whether the target's tiles have ADCs of their own (array.tiling).",
    )
    sums: tuple[SumEntry, ...] = Field(
        default=(),
        description="Rows of tiles that are converted one by one and added digitally; empty: one "
        "conversion serves the whole sum.",
    )
    input_bits: int | None = Field(
        default=None,
        description="Bit-serial inputs: bits of a code that are applied at once; null: all.",
    )
    cell_bits: int | None = Field(
        default=None,
        description="Bit slicing: bits of a code that one pair of cells holds; null: all.",
    )
    cells: int = Field(default=1, description="Pairs of cells that hold one weight's digits.")


class CallEntry(_Part):
    """One use of a region in the graph."""

    node: str = Field(description="Name of the product's node (flat) or of the call (functions).")
    input: str = Field(description="Tensor that enters the DAC.")
    output: str = Field(description="Tensor that leaves the ADC.")
    last: str = Field(description="Name of the node that computes the output.")


class RegionEntry(_Part):
    """One analog region: a product with stored weights, DAC -> array -> ADC."""

    id: str = Field(description="Unique name.")
    kind: Kind = Field(description="Operator.")
    attributes: dict[str, int | tuple[int, ...]] = Field(
        description="stride, padding, dilation, output_padding, groups of a convolution."
    )
    bias: str | None = Field(description="Parameter added digitally afterwards, if any.")
    dac: ConverterEntry | None = Field(description="Input converter; null: no bits.")
    weight: WeightEntry
    adc: ConverterEntry | None = Field(description="Output converter; null: no bits.")
    noise: NoiseEntry
    tiles: TileEntry
    correction: float | tuple[float, ...] | None = Field(
        default=None,
        description="What a programmed chip's output is multiplied by digitally to make up for "
        "drift; one number, or one an output channel.",
    )
    shares_array_with: str | None = Field(description="Region whose array this one uses.")
    max_accumulator: float | None = Field(
        description="Bound on the magnitude of any partial sum in codes; float32 sums are exact "
        "below 2^24. null: not integer codes. Where tiles convert their own sums, of any of those."
    )
    exact: bool = Field(
        description="Whether equal inputs give outputs that equal torch's bit for bit."
    )
    calls: tuple[CallEntry, ...] = Field(min_length=1, description="Uses, in graph order.")


class DigitalEntry(_Part):
    """A product left digital, and why."""

    name: str
    operator: str
    reason: str
    nodes: tuple[str, ...] = Field(default=(), description="Nodes that compute it.")


class Promise(_Part):
    """Whether onnxruntime's outputs equal torch's bit for bit, and if not, why."""

    exact: bool
    reasons: tuple[str, ...] = ()


class Manifest(_Part):
    """Everything the file says about its analog part."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    producer: str = "analogize"
    target: str
    form: Form
    arithmetic: Arithmetic
    noise: Literal["none", "runtime", "programmed"]
    numerics: Promise
    regions: tuple[RegionEntry, ...]
    digital: tuple[DigitalEntry, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> str:
        """One line of JSON; ``parse`` reads it back equal."""
        return self.model_dump_json(by_alias=True)

    def metadata(self) -> dict[str, str]:
        """The entries of the model's ``metadata_props``."""
        return {
            SCHEMA_KEY: str(SCHEMA_VERSION),
            TARGET_KEY: self.target,
            MANIFEST_KEY: self.to_json(),
        }


def parse(metadata: Mapping[str, str], source: str) -> Manifest | None:
    """The manifest in a model's metadata; None if there is none.

    Args:
        metadata: the model's ``metadata_props``.
        source: the file, for messages.

    Raises:
        ExportError: another schema version, or text that is not a manifest.
    """
    version, text = metadata.get(SCHEMA_KEY), metadata.get(MANIFEST_KEY)
    if text is None:
        return None
    if version != str(SCHEMA_VERSION):
        raise ExportError(
            f"{source}: {SCHEMA_KEY} is {version!r}; this version of analogize reads "
            f"{SCHEMA_VERSION}. Use the version of analogize that wrote the file, or export again"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise ExportError(
            f"{source}: {MANIFEST_KEY} is not a valid manifest: {where}: {first['msg']} "
            f"({error.error_count()} problems); export the model again"
        ) from error


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of ``ai.analogize.manifest``."""
    schema = Manifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def digest(values: npt.NDArray[Any]) -> str:
    """A fingerprint of a tensor's numbers, whatever type holds them; see ``WeightEntry.digest``."""
    hashed = hashlib.blake2b(digest_size=16)
    # In parts, because a float32 copy of a whole layer may be large.
    for row in values if values.ndim > 1 else (values,):
        hashed.update(np.ascontiguousarray(row, np.float32).tobytes())
    return hashed.hexdigest()
