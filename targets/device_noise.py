"""The noise models on devices: what programming, time and wires do to conductances.

Each number that a source gives bounds for has them beside it: conductances in ``valid``, times in
``until``; what lies outside is refused. ``scale`` strengthens or weakens a model as a whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Count, Level, Positive, Probability, Real, Spec, refuse
from analogize.targets.curve import Curve

Scale = Annotated[
    Level, Field(description="Factor on everything that the model draws or shifts; 0: nothing.")
]
Until = Annotated[
    Positive | None,
    Field(description="Seconds after programming up to which it holds; later is refused."),
]
Bias = Annotated[
    Curve | None,
    Field(description="Mean deviation over the target conductance, in G's unit; null: none."),
]


class Validity(Spec):
    """The conductances for which a figure was measured."""

    min: Level = Field(description="Smallest conductance.")
    max: Positive = Field(description="Largest conductance.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min >= self.max:
            raise refuse("min", f"min ({self.min:g}) must be below max ({self.max:g})")
        return self


class ProgrammingNoise(Spec):
    """Every device misses its target by N(bias(G), sigma(G)); drawn once a programming."""

    model: Literal["programming"] = "programming"
    sigma: Curve = Field(description="Standard deviation over the target conductance, in G's unit.")
    bias: Bias = None
    valid: Validity | None = Field(
        default=None, description="Conductances the curve was fitted to; others are refused."
    )
    scale: Scale = 1.0

    def __str__(self) -> str:
        return "programming noise"


class WriteVerifyNoise(Spec):
    """Programming that is verified: draw N(bias(G), sigma(G)) again until it is in the window.

    A device is done once it is read within +-window of its target, and stays as it is after
    ``iterations`` attempts whether it is or not: the closed-loop scheme of Papandreou et al.,
    Programming algorithms for multilevel phase-change memory, ISCAS (2011), 329-332, reduced to
    independent attempts (aihwkit's documentation names it for its PCM). With p = P(|miss| <=
    window), a share (1 - p)^iterations ends outside. Verifying is taken as exact.
    """

    model: Literal["write_verify"] = "write_verify"
    sigma: Curve = Field(description="Standard deviation of one attempt, in G's unit.")
    bias: Bias = None
    window: Positive = Field(description="Largest accepted deviation, in G's unit.")
    iterations: Annotated[Count, Field(le=1000)] = Field(description="Attempts at most.")
    valid: Validity | None = Field(
        default=None, description="Conductances the curve was fitted to; others are refused."
    )
    scale: Scale = 1.0

    def __str__(self) -> str:
        return f"write-verify within {self.window:g}, {self.iterations} attempts"


class RelaxationPoint(Spec):
    """The spread of the conductances at one time after programming."""

    time: Level = Field(description="Seconds after programming.")
    sigma: Curve = Field(description="Standard deviation over the target conductance, in G's unit.")
    bias: Bias = None
    valid: Validity | None = Field(
        default=None, description="Conductances that this point's curves hold for."
    )


class RelaxationNoise(Spec):
    """Programming noise whose spread was measured at several times.

    One draw a device and programming; between two times sigma and bias are interpolated linearly,
    in time or in the logarithm of (1 s + time); before the first they are the first one's, after
    the last they are refused.
    """

    model: Literal["relaxation"] = "relaxation"
    points: tuple[RelaxationPoint, ...] = Field(
        min_length=1, description="The spread at increasing times."
    )
    interpolation: Literal["logarithmic", "linear"] = Field(
        default="logarithmic", description="Between two times: in ln(1 s + time), or in time."
    )
    sigma_at: Literal["target", "mean"] = Field(
        default="target",
        description="The conductance that sigma is taken at: the target, or the mean after the "
        "shift by bias.",
    )
    valid: Validity | None = Field(
        default=None, description="Conductances the curves were fitted to; others are refused."
    )
    scale: Scale = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        times = [point.time for point in self.points]
        for index, (before, after) in enumerate(pairwise(times), start=1):
            if after <= before:
                raise refuse(f"points.{index}.time", f"must be after the one before ({before:g} s)")
        return self

    def __str__(self) -> str:
        return f"programming noise, known to {self.points[-1].time:g} s"


class DriftNoise(Spec):
    """Power-law drift, G(t) = G_prog ((t + t0) / t0)^-nu, with a nu of its own for every device."""

    model: Literal["drift"] = "drift"
    t0: Positive = Field(description="Seconds from programming to the first reading.")
    nu_mean: Curve = Field(description="Mean of nu over the target conductance.")
    nu_std: Curve = Field(description="Standard deviation of nu from device to device, likewise.")
    until: Until = None
    scale: Scale = 1.0

    def __str__(self) -> str:
        return f"drift from {self.t0:g} s"


class LogDriftNoise(Spec):
    """Drift by N(mean_slope ln t, std_intercept + std_slope ln t), whatever the conductance.

    Nothing happens before t = 1 s, where the published fits begin.
    """

    model: Literal["log_drift"] = "log_drift"
    mean_slope: Real = Field(description="Mean drift per factor e of time, in G's unit.")
    std_intercept: Level = Field(description="Its standard deviation after 1 s, in G's unit.")
    std_slope: Level = Field(description="Growth of it per factor e of time, in G's unit.")
    until: Until = None
    scale: Scale = 1.0

    def __str__(self) -> str:
        return "logarithmic drift"


class OneOverFNoise(Spec):
    """1/f read noise: sigma = G_drift Q(G_prog) sqrt(ln((t + t_read) / (2 t_read))).

    Where a source gives it in the conductance's unit, sigma(G_drift) stands for G_drift Q(G_prog).
    """

    model: Literal["one_over_f"] = "one_over_f"
    q: Curve | None = Field(default=None, description="Q over the programmed conductance.")
    sigma: Curve | None = Field(
        default=None, description="Instead of q: sigma over the drifted conductance, in its unit."
    )
    t_read: Positive = Field(description="Duration of a reading in seconds.")
    t0: Positive = Field(description="Seconds from programming to the first reading.")
    until: Until = None
    scale: Scale = 1.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.q is None) == (self.sigma is None):
            raise refuse("q", "give one of q (a share of the conductance) and sigma (in its unit)")
        if self.t0 < self.t_read:
            raise refuse("t0", f"must be at least t_read ({self.t_read:g} s)")
        return self

    def __str__(self) -> str:
        return "1/f noise"


class VariationNoise(Spec):
    """Each conductance is multiplied by a random factor of its own.

    ``gaussian``: 1 + std N(0, 1). ``lognormal``: exp(std N(0, 1) - std^2 / 2), whose mean is 1.
    """

    model: Literal["variation"] = "variation"
    source: Literal["device", "cycle"] = Field(
        description="device: the factor stays with the device; cycle: drawn at each programming."
    )
    distribution: Literal["gaussian", "lognormal"] = Field(
        default="gaussian", description="Of the factor."
    )
    std: Level = Field(
        description="Standard deviation of the factor, or of its logarithm (lognormal)."
    )
    length: Positive | None = Field(
        default=None,
        description="Cells over which neighbours on a tile vary alike: the correlation at a "
        "distance of d cells is exp(-d^2 / (2 length^2)); null: every device by itself.",
    )
    scale: Scale = 1.0

    def __str__(self) -> str:
        over = "" if self.length is None else f" over {self.length:g} cells"
        return f"{self.source} variation {self.std:g}{over}"


class StuckNoise(Spec):
    """Devices that cannot be programmed: they stay at g_min or g_max; the same ones on a chip."""

    model: Literal["stuck"] = "stuck"
    at_min: Probability = Field(default=0.0, description="Share of devices stuck at g_min.")
    at_max: Probability = Field(default=0.0, description="Share of devices stuck at g_max.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.at_min + self.at_max > 1:
            raise refuse("at_max", f"at_min and at_max add up to {self.at_min + self.at_max:g} > 1")
        return self

    def __str__(self) -> str:
        return f"stuck {self.at_min + self.at_max:.2g}"


class TemperatureNoise(Spec):
    """Thermally activated conduction, G(T) = G exp(-(E(G) / k) (1 / T - 1 / T0)).

    T is the condition ``temperature`` of ``program`` and ``evaluate``, in kelvin; without it T is
    T0 and nothing changes. E > 0: the conductance rises with temperature. This is Arrhenius's law
    and no more: for phase-change memory see Le Gallo and Sebastian, Journal of Physics D 53:213002
    (2020), doi:10.1088/1361-6463/ab7794, whose section on transport was not read for this model.
    """

    model: Literal["temperature"] = "temperature"
    activation: Curve = Field(description="E over the target conductance, in electronvolts.")
    reference: Positive = Field(description="T0, at which the other figures hold, in kelvin.")
    min: Positive = Field(description="Lowest temperature that E was measured at, in kelvin.")
    max: Positive = Field(description="Highest, likewise; beyond both it is refused.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.min <= self.reference <= self.max:
            raise refuse("reference", f"must lie between min and max ({self.min:g}, {self.max:g})")
        return self

    def __str__(self) -> str:
        return f"conductances at {self.min:g} to {self.max:g} K"


_SOLVERS = {"auto": "", "first_order": " to first order", "nodal": " of the solved network"}


class IRDropNoise(Spec):
    """IR drop: wires with resistance take voltage from the cells.

    To first order G / (1 + loss), loss_ij = r_row sum_m min(j, m) G_im + r_col sum_m min(i, m) G_mj
    over the cells of a tile, counted from the drivers and the ADCs. That holds up to a loss of 1;
    beyond, the resistor network is solved, which is exact and slow. Nothing is random; it comes
    last of the models on devices.
    """

    model: Literal["ir_drop"] = "ir_drop"
    row_segment: Level = Field(
        default=0.0, description="Ohms of a row's wire from one cell to the next."
    )
    column_segment: Level = Field(
        default=0.0, description="Ohms of a column's wire from one cell to the next."
    )
    solver: Literal["auto", "first_order", "nodal"] = Field(
        default="auto",
        description="first_order: refused beyond a loss of 1; nodal: the solved network; auto: "
        "the first where it holds, the second elsewhere.",
    )

    def __str__(self) -> str:
        return (
            f"IR drop{_SOLVERS[self.solver]}, {self.row_segment:g} and {self.column_segment:g} ohm "
            "a segment of row and column"
        )


DeviceModel = (
    ProgrammingNoise
    | WriteVerifyNoise
    | RelaxationNoise
    | DriftNoise
    | LogDriftNoise
    | OneOverFNoise
    | VariationNoise
    | StuckNoise
    | TemperatureNoise
    | IRDropNoise
)
