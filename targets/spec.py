"""The schema of a target: everything analogize knows about an analog accelerator.

    Target
    ├── weights   range to which weights are clipped, grid on which they are programmed
    ├── noise     what the array adds to a programmed weight
    ├── dac, adc  grids of the activations that enter and of the sums that leave the array
    ├── array     rows and columns of one crossbar tile
    └── digital   what is never mapped to the array

Quantities are in the units of the tensor they apply to (weights, activations), and noise levels are
ratios, so one target fits every model. "The paper" is *Noisy Machines: Understanding Noisy Neural
Networks and Enhancing Robustness to Analog Hardware Errors Using Distillation*.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from analogize.targets.dialect import dump

SCHEMA_VERSION: Final = 1

Operator = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]
Grid = Literal["affine", "symmetric"]

# Strict numbers: "8" and true are typing errors in a YAML file, not numbers.
Bits = Annotated[int, Field(strict=True, ge=1, le=16)]
Count = Annotated[int, Field(strict=True, ge=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Level = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Percentile = Annotated[float, Field(strict=True, ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


_NO_CLIPPING = "'range: {kind: absmax}' clips nothing"


def _require_constants(schema: dict[str, Any]) -> None:
    """List `schema`, `kind` and `model` as required: they have one value, but files must say it."""
    constants = [key for key, value in schema.get("properties", {}).items() if "const" in value]
    if constants:
        schema["required"] = constants + schema.get("required", [])


def _refuse(key: str, reason: str) -> PydanticCustomError:
    """An error about the value under ``key`` (dotted, relative to the model that raises it)."""
    return PydanticCustomError("inconsistent", "{reason}", {"key": key, "reason": reason})


class Spec(BaseModel):
    """Base of every part of a target: immutable, hashable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        json_schema_extra=_require_constants,
    )


class StdRange(Spec):
    """A multiple of the layer's standard deviation: [-multiple sigma_W, +multiple sigma_W]."""

    kind: Literal["std"] = "std"
    multiple: float = Field(
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="Half-width of the range in standard deviations of the layer's weights; "
        "the paper's section 5.2 uses 2.",
    )


class PercentileRange(Spec):
    """Percentiles of the observed values, the paper's q_min and q_max (section 5.2)."""

    kind: Literal["percentile"] = "percentile"
    low: Percentile = Field(default=0.1, description="Percentile of the lower end, 0 to 100.")
    high: Percentile = Field(default=99.9, description="Percentile of the upper end, 0 to 100.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            given = "low" if "low" in self.model_fields_set else "high"
            raise _refuse(given, f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class AbsMaxRange(Spec):
    """The largest magnitude in the layer: [-max|w|, +max|w|]; nothing is clipped."""

    kind: Literal["absmax"] = "absmax"


class FixedRange(Spec):
    """The same two numbers for every layer, in units of the tensor."""

    kind: Literal["fixed"] = "fixed"
    min: Real = Field(description="Lower end, in units of the tensor.")
    max: Real = Field(description="Upper end, in units of the tensor.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min >= self.max:
            raise _refuse("min", f"min ({self.min:g}) must be below max ({self.max:g})")
        return self


WeightRange = Annotated[
    StdRange | PercentileRange | AbsMaxRange | FixedRange, Field(discriminator="kind")
]
ConverterRange = Annotated[PercentileRange | FixedRange, Field(discriminator="kind")]


def _check_grid(bits: int | None, grid: Grid, values: Spec | None) -> None:
    """Refuse a grid that cannot hold an exact zero, or a range that is not the grid's."""
    if bits is None:
        return
    if grid == "symmetric" and bits < 2:
        raise _refuse(
            "bits", "a symmetric grid needs 2 to 16 bits (-1, 0 and +1); use grid: affine for 1 bit"
        )
    if not isinstance(values, FixedRange):
        return
    if grid == "symmetric" and values.min != -values.max:
        raise _refuse(
            "range",
            "a symmetric grid spans [-a, a]: make min the negative of max, or use grid: affine",
        )
    if not values.min <= 0 <= values.max:
        raise _refuse(
            "range", "a quantized range must contain 0, because padding must be an exact code"
        )


class Weights(Spec):
    """How weights are clipped and on which grid they are programmed (section 5.1)."""

    range: WeightRange | None = Field(
        default=None,
        description="[W_min, W_max] of section 5.1, fixed once per layer; weights are clipped to "
        "it, its grid spans it, and eta refers to it. null: nothing is clipped, and neither bits "
        "nor Gaussian noise can be given (kind: absmax clips nothing either, and allows both).",
    )
    bits: Bits | None = Field(
        default=None,
        description="Resolution of the programmed weights; null: not quantized.",
    )
    granularity: Literal["tensor", "channel"] = Field(
        default="tensor", description="One range per layer (the paper's), or per output channel."
    )
    grid: Grid = Field(
        default="affine",
        description="affine: 2^bits codes with a zero point over [W_min, W_max]; "
        "symmetric: 2^bits - 1 codes around zero over [-a, a], as a differential pair has.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bits is not None and self.range is None:
            raise _refuse("bits", f"a grid needs a range to span; {_NO_CLIPPING}")
        _check_grid(self.bits, self.grid, self.range)
        return self


class GaussianNoise(Spec):
    """Zero-mean i.i.d. noise on the weights, sigma_N = eta (W_max - W_min) (eq. 8)."""

    model: Literal["gaussian"] = "gaussian"
    eta: Level = Field(
        description="Noise level: standard deviation over the range of representable weights, "
        "sigma_N / (W_max - W_min) (eq. 8)."
    )
    eta_std: Level = Field(
        default=0.0,
        description="sigma_eta of section 5.2: each draw takes its level from "
        "N(eta, eta_std); 0: always eta.",
    )


class FixedSNRNoise(Spec):
    """Zero-mean i.i.d. noise at a fixed ratio to the weights' spread (section 4.1)."""

    model: Literal["fixed_snr"] = "fixed_snr"
    ratio: Level = Field(
        description="sigma_N / sigma_W: standard deviation of the noise over that of the layer's "
        "weights (section 4.1)."
    )


NoiseModel = Annotated[GaussianNoise | FixedSNRNoise, Field(discriminator="model")]


class Converter(Spec):
    """A DAC or ADC: a uniform grid over a range that calibration fixes (section 5.2)."""

    bits: Bits | None = Field(default=None, description="Resolution; null: no conversion.")
    range: ConverterRange = Field(
        default=PercentileRange(),
        description="Percentiles of the calibration data (the paper's 0.1 and 99.9), or fixed.",
    )
    grid: Grid = Field(
        default="affine",
        description="affine: 2^bits codes with a zero point; symmetric: 2^bits - 1 around zero.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_grid(self.bits, self.grid, self.range)
        return self


class Array(Spec):
    """One crossbar tile; a larger weight matrix is split over several."""

    rows: Count = Field(description="Rows of a tile: inputs summed in one column.")
    cols: Count = Field(description="Columns of a tile: outputs, one weight per crossing.")


class Digital(Spec):
    """What stays digital even though an array could hold it."""

    operators: tuple[Operator, ...] = Field(default=(), description="Operators kept digital.")
    names: tuple[Text, ...] = Field(
        default=(),
        description="Glob patterns on layer names kept digital, for example 'layer4.*' or 'fc'.",
    )


class Target(Spec):
    """An analog accelerator as analogize sees it; built in, read from YAML, or made in Python.

    Raises:
        pydantic.ValidationError: for values out of range or inconsistent with one another
            (``analogize.targets.load_target`` raises ``TargetError`` for files).
    """

    schema_version: Literal[1] = Field(
        default=SCHEMA_VERSION,
        validation_alias="schema",
        serialization_alias="schema",
        description="Version of the target schema that the file is written for.",
    )
    name: Text = Field(description="Name of the target; in a file, its file name by default.")
    description: str = Field(default="", description="What it stands for, in a sentence or two.")
    technology: Text = Field(
        default="generic", description="Device technology, for example PCM, ReRAM or SONOS."
    )
    references: tuple[Text, ...] = Field(
        default=(), description="Sources of the figures: papers, tools' files, data sheets."
    )
    weights: Weights = Field(default=Weights(), description="Clipping and grid of the weights.")
    noise: tuple[NoiseModel, ...] = Field(
        default=(), description="Independent noise models that add up; empty: no noise."
    )
    dac: Converter = Field(default=Converter(), description="Inputs of the array.")
    adc: Converter = Field(default=Converter(), description="Outputs of the array.")
    array: Array | None = Field(default=None, description="Size of a tile; null: unlimited.")
    digital: Digital = Field(default=Digital(), description="What is never mapped to the array.")

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        """Equation 8 refers eta to W_max - W_min, which only a range defines."""
        for index, model in enumerate(self.noise):
            if isinstance(model, GaussianNoise) and self.weights.range is None:
                reason = f"eta is a share of W_max - W_min, so give weights.range; {_NO_CLIPPING}"
                raise _refuse(f"noise.{index}.eta", reason)
        return self

    def to_yaml(self) -> str:
        """The target as a YAML file that ``load_target`` reads back equal, defaults spelled out."""
        return dump(self.model_dump(mode="json", by_alias=True))
