"""Ranges of weights and converters, and what a grid over them may be."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Level, Percentile, Positive, Probability, Real, Spec, refuse

Grid = Literal["affine", "symmetric"]


class StdRange(Spec):
    """A multiple of the standard deviation sigma of a layer's weights, or of what is converted.

    Weights: [-multiple sigma, +multiple sigma]. Converters: multiple sigma to either side of the
    mean, but no farther than the calibration data go.
    """

    kind: Literal["std"] = "std"
    multiple: float = Field(
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="Half-width of the range in standard deviations; the paper's section 5.2 uses "
        "2 for weights.",
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
            raise refuse(given, f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class AbsMaxRange(Spec):
    """The largest magnitude in the layer: [-max|w|, +max|w|]; nothing is clipped."""

    kind: Literal["absmax"] = "absmax"


class MinMaxRange(Spec):
    """The smallest and the largest value: nothing is clipped."""

    kind: Literal["minmax"] = "minmax"


class LeastSquaresRange(Spec):
    """The range whose grid errs least: least mean squared error of rounding and clipping.

    A wide range rounds coarsely, a narrow one clips; the search weighs both on the weights, or on
    the calibration data.
    """

    kind: Literal["mse"] = "mse"


class FixedRange(Spec):
    """The same two numbers for every layer, in units of the tensor."""

    kind: Literal["fixed"] = "fixed"
    min: Real = Field(description="Lower end, in units of the tensor.")
    max: Real = Field(description="Upper end, in units of the tensor.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min >= self.max:
            raise refuse("min", f"min ({self.min:g}) must be below max ({self.max:g})")
        return self


class FullRange(Spec):
    """Every sum that a tile can produce: no output saturates, and no calibration is needed.

    The step is the least whole number of units (one input code times one weight code) with which
    the bits cover rows x largest input x largest weight; an ADC with enough bits loses nothing.
    """

    kind: Literal["full"] = "full"


class BoundRange(Spec):
    """ADC only: [-bound, +bound] in full-scale inputs times full-scale weights; no calibration.

    It is the output bound of aihwkit and its kin: a column whose inputs and weights all were at
    full scale would give as many as it has rows.
    """

    kind: Literal["bound"] = "bound"
    bound: Positive = Field(description="Largest sum, in full-scale inputs times weights.")


class VectorRange(Spec):
    """DAC only: every input vector has its own range, found at run time; no calibration.

    The range reaches as far as the vector's values do, and what its product gives is rescaled
    digitally. A vector is what one product sums over: the last dimension; of a convolution, whose
    patches overlap, all values of an example.
    """

    kind: Literal["vector"] = "vector"


WeightRange = Annotated[
    StdRange | PercentileRange | AbsMaxRange | MinMaxRange | LeastSquaresRange | FixedRange,
    Field(discriminator="kind"),
]
CalibratedRange = PercentileRange | MinMaxRange | StdRange | LeastSquaresRange


class LearnedRange(Spec):
    """A range that is trained with the weights, from what calibration data say; fixed on a chip.

    outward: values beyond the range push it out, by as much as the loss gains from more of them,
    and a decay pulls it in as long as few values are beyond (aihwkit's and Analog Foundation
    Models'). lsq: the straight-through gradient of clipping and rounding, which finds the range
    of least loss by itself (Esser et al., Learned Step Size Quantization, arXiv:1902.08153).
    """

    kind: Literal["learned"] = "learned"
    start: Annotated[CalibratedRange, Field(discriminator="kind")] = Field(
        default=LeastSquaresRange(), description="Where it begins: a rule for calibration data."
    )
    gradient: Literal["outward", "lsq"] = Field(
        default="outward", description="How the loss moves it."
    )
    decay: Level = Field(
        default=0.01,
        description="Pull inward: a share of the range that is added to its gradient (kind of "
        "weight decay); with lsq often 0.",
    )
    inside: Probability = Field(
        default=0.95,
        description="The decay acts only where more than this share of a batch's values is inside.",
    )


ConverterRange = Annotated[
    CalibratedRange | LearnedRange | FixedRange | FullRange | BoundRange | VectorRange,
    Field(discriminator="kind"),
]


def check_grid(bits: int | None, grid: Grid, values: Spec | None) -> None:
    """Refuse a grid that cannot hold an exact zero, or a range that is not the grid's."""
    if bits is None:
        return
    if grid == "symmetric" and bits < 2:
        raise refuse(
            "bits", "a symmetric grid needs 2 to 16 bits (-1, 0 and +1); use grid: affine for 1 bit"
        )
    if not isinstance(values, FixedRange):
        return
    if grid == "symmetric" and values.min != -values.max:
        raise refuse(
            "range",
            "a symmetric grid spans [-a, a]: make min the negative of max, or use grid: affine",
        )
    if not values.min <= 0 <= values.max:
        raise refuse(
            "range", "a quantized range must contain 0, because padding must be an exact code"
        )
