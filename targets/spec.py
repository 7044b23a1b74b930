"""The schema of a target: everything analogize knows about an analog accelerator.

    Target
    ├── weights       range that clips weights (ranges.py), grid on which they are programmed
    ├── conductance   how weights become the conductances of device pairs (conductance.py)
    ├── noise         by what devices, weights and products deviate (noise.py)
    ├── compensation  how drift is corrected digitally
    ├── dac, adc      grids of the activations that enter and of the sums that leave the array
    ├── array         rows and columns of one crossbar tile
    ├── cost          energies for the estimate in the summary
    ├── digital       what is never mapped to the array
    └── overrides     other settings for some regions (overrides.py)

Quantities are in the units of the tensor they apply to (weights, activations), and noise levels are
ratios, so one target fits every model. "The paper" is *Noisy Machines: Understanding Noisy Neural
Networks and Enhancing Robustness to Analog Hardware Errors Using Distillation*.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from analogize.display.tables import html
from analogize.targets.base import Bits, Count, Spec, Text, refuse
from analogize.targets.check import (
    check_converters,
    check_devices,
    check_digits,
    check_output,
    check_range,
    check_signals,
)
from analogize.targets.conductance import Conductance
from analogize.targets.cost import Cost
from analogize.targets.dialect import dump
from analogize.targets.noise import FixedSNRNoise, GaussianNoise, NoiseModel
from analogize.targets.overrides import check_overrides
from analogize.targets.ranges import (
    AbsMaxRange,
    BoundRange,
    CalibratedRange,
    ConverterRange,
    FixedRange,
    FullRange,
    Grid,
    LearnedRange,
    LeastSquaresRange,
    MinMaxRange,
    PercentileRange,
    StdRange,
    VectorRange,
    WeightRange,
    check_grid,
)

__all__ = [
    "SCHEMA_VERSION",
    "AbsMaxRange",
    "Array",
    "BoundRange",
    "CalibratedRange",
    "Compensation",
    "Conductance",
    "Converter",
    "ConverterRange",
    "Cost",
    "Digital",
    "FixedRange",
    "FixedSNRNoise",
    "FullRange",
    "GaussianNoise",
    "LearnedRange",
    "LeastSquaresRange",
    "MinMaxRange",
    "NoiseModel",
    "Operator",
    "Override",
    "PercentileRange",
    "Spec",
    "StdRange",
    "Target",
    "VectorRange",
    "WeightRange",
    "Weights",
]

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
Compensation = Literal["none", "global", "tile", "column"]

_NO_CLIPPING = "'range: {kind: absmax}' clips nothing"


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
            raise refuse("bits", f"a grid needs a range to span; {_NO_CLIPPING}")
        if self.bits is None and isinstance(self.range, LeastSquaresRange):
            reason = "without bits nothing is rounded, so the range of least error is kind: minmax"
            raise refuse("range.kind", reason)
        check_grid(self.bits, self.grid, self.range)
        return self


class Converter(Spec):
    """A DAC or ADC: a uniform grid over a range that calibration fixes (section 5.2)."""

    bits: Bits | None = Field(default=None, description="Resolution; null: no conversion.")
    range: ConverterRange = Field(
        default=LeastSquaresRange(),
        description="What calibration data say: the range of least squared error (mse), "
        "percentiles (the paper's 0.1 and 99.9), minmax, a multiple of the deviation (std); or "
        "learned from there on, with the weights; or fixed; or for a DAC one a vector; or for an "
        "ADC a bound, or every sum that a tile can produce (full).",
    )
    granularity: Literal["tensor", "channel"] = Field(
        default="tensor",
        description="ADC. tensor: one range for all columns, in array units: where weights have a "
        "range per channel, every column's sum counts in steps of its own weights. channel: one "
        "range per output channel.",
    )
    grid: Grid = Field(
        default="affine",
        description="affine: 2^bits codes with a zero point; symmetric: 2^bits - 1 around zero.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_grid(self.bits, self.grid, self.range)
        return self


class Array(Spec):
    """One crossbar tile; a larger weight matrix is split over several."""

    rows: Count = Field(description="Rows of a tile: inputs summed in one column.")
    cols: Count = Field(description="Columns of a tile: outputs, one weight per crossing.")
    tiling: bool = Field(
        default=False,
        strict=True,
        description="true: every tile converts its own partial sums, which are then added "
        "digitally; false: the size only counts tiles, and an ADC converts the whole sum.",
    )
    transposable: bool = Field(
        default=False,
        strict=True,
        description="true: cells can be read from either side, so a linear product by the "
        "transpose of a weight that lies on an array uses the same cells.",
    )
    cell_bits: Bits | None = Field(
        default=None,
        description="Bit slicing: bits of a weight that one pair of cells holds, the rest in "
        "further pairs whose sums are shifted and added digitally; null: one pair holds a weight.",
    )
    input_bits: Bits | None = Field(
        default=None,
        description="Bit-serial inputs: bits of an input that are applied at once, the rest one "
        "after the other, shifted and added digitally; null: inputs are applied whole.",
    )


class Digital(Spec):
    """What stays digital even though an array could hold it."""

    operators: tuple[Operator, ...] = Field(default=(), description="Operators kept digital.")
    names: tuple[Text, ...] = Field(
        default=(),
        description="Glob patterns on layer names kept digital, for example 'layer4.*' or 'fc'.",
    )
    ends: bool = Field(
        default=False, description="Whether the first and the last product are kept digital."
    )


class WeightsChange(Weights):
    """Some of the settings of ``weights``; checked once they lie over the target's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self


class ConverterChange(Converter):
    """Some of the settings of a converter; checked once they lie over the target's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self


class Override(Spec):
    """Other settings for some regions: what is given here lies over the target's, key by key."""

    regions: tuple[Text, ...] = Field(
        min_length=1,
        description="Glob patterns on region names, for example 'conv1' or 'layer4.*'; "
        "a target whose override matches no region of a model is refused for that model.",
    )
    weights: WeightsChange | None = Field(default=None, description="As in the target, in part.")
    conductance: Conductance | None = Field(default=None, description="Instead of the target's.")
    noise: tuple[NoiseModel, ...] | None = Field(
        default=None, description="Instead of the target's; an empty list: no noise."
    )
    dac: ConverterChange | None = Field(default=None, description="As in the target, in part.")
    adc: ConverterChange | None = Field(default=None, description="As in the target, in part.")
    array: Array | None = Field(default=None, description="Instead of the target's.")


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
    conductance: Conductance | None = Field(
        default=None,
        description="How weights become conductances; null: weights are programmed as such.",
    )
    noise: tuple[NoiseModel, ...] = Field(
        default=(),
        description="Noise models: those on devices act one after the other, in this order; the "
        "deviations of those on weights add up. Empty: no noise.",
    )
    compensation: Compensation = Field(
        default="none",
        description="Digital factor on an array's output after drift: none, one for the array "
        "(global), for each tile (tile), or for each output channel (column).",
    )
    dac: Converter = Field(default=Converter(), description="Inputs of the array.")
    adc: Converter = Field(default=Converter(), description="Outputs of the array.")
    array: Array | None = Field(default=None, description="Size of a tile; null: unlimited.")
    cost: Cost | None = Field(
        default=None, description="Figures for the estimate in the summary; null: unknown."
    )
    digital: Digital = Field(default=Digital(), description="What is never mapped to the array.")
    overrides: tuple[Override, ...] = Field(
        default=(), description="Other settings for some regions; of several, later ones win."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_range(self)
        check_devices(self)
        check_output(self)
        check_signals(self)
        check_converters(self)
        check_digits(self)
        check_overrides(self)
        return self

    def _repr_html_(self) -> str:
        from analogize.targets.words import settings

        rows = [{"part": part, "says": words} for part, words in settings(self)]
        return html(rows, f"{self.name} ({self.technology})", self.description)

    def __repr__(self) -> str:
        noise = " + ".join(map(str, self.noise)) or "no noise"
        return f"<Target {self.name} ({self.technology}), {noise}; to_yaml() has every figure>"

    __str__ = __repr__

    def to_yaml(self) -> str:
        """The target as a YAML file that ``load_target`` reads back equal, defaults spelled out."""
        data = self.model_dump(mode="json", by_alias=True)
        # A default that is spelled out in an override would be a change.
        data["overrides"] = [o.model_dump(mode="json", exclude_unset=True) for o in self.overrides]
        return dump(data)
