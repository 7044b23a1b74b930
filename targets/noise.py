"""The noise models that a target may list: on weights, on devices, and on products.

    on weights    gaussian, fixed_snr            ratios, for any technology
    on devices    programming, relaxation,       conductances of the cells, in the order listed;
                  drift, log_drift, one_over_f,  they need ``conductance`` in the target
                  variation, stuck, ir_drop
    on products   read, output                   drawn anew at every product, chip or no chip
    anything      custom                         a Python function of yours

Times are in seconds and count from the end of programming; conductances are in the unit of
``conductance`` (microsiemens by default). ``devices/`` in the package holds each model's formula.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from analogize.targets.base import Level, Positive, Probability, Real, Spec, Text, refuse
from analogize.targets.curve import Curve


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

    def __str__(self) -> str:
        return f"eta {self.eta:g}" + (f" ± {self.eta_std:g}" if self.eta_std else "")


class FixedSNRNoise(Spec):
    """Zero-mean i.i.d. noise at a fixed ratio to the weights' spread (section 4.1)."""

    model: Literal["fixed_snr"] = "fixed_snr"
    ratio: Level = Field(
        description="sigma_N / sigma_W: standard deviation of the noise over that of the layer's "
        "weights (section 4.1)."
    )

    def __str__(self) -> str:
        return f"sigma_N / sigma_W {self.ratio:g}"


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
    """Every device misses its target by N(0, sigma(G)); drawn once a programming."""

    model: Literal["programming"] = "programming"
    sigma: Curve = Field(description="Standard deviation over the target conductance, in G's unit.")
    valid: Validity | None = Field(
        default=None, description="Conductances the curve was fitted to; others are refused."
    )

    def __str__(self) -> str:
        return "programming noise"


class RelaxationPoint(Spec):
    """The spread of the conductances at one time after programming."""

    time: Level = Field(description="Seconds after programming.")
    sigma: Curve = Field(description="Standard deviation over the target conductance, in G's unit.")


class RelaxationNoise(Spec):
    """Programming noise whose spread was measured at several times.

    One draw a device and programming; between two times sigma is interpolated linearly in the
    logarithm of (1 s + time); before the first it is the first one's, after the last it is refused.
    """

    model: Literal["relaxation"] = "relaxation"
    points: tuple[RelaxationPoint, ...] = Field(
        min_length=1, description="The spread at increasing times."
    )
    valid: Validity | None = Field(
        default=None, description="Conductances the curves were fitted to; others are refused."
    )

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

    def __str__(self) -> str:
        return "logarithmic drift"


class OneOverFNoise(Spec):
    """1/f read noise: sigma = G_drift Q(G_prog) sqrt(ln((t + t_read) / (2 t_read)))."""

    model: Literal["one_over_f"] = "one_over_f"
    q: Curve = Field(description="Q over the programmed conductance.")
    t_read: Positive = Field(description="Duration of a reading in seconds.")
    t0: Positive = Field(description="Seconds from programming to the first reading.")

    @model_validator(mode="after")
    def _check(self) -> Self:
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

    def __str__(self) -> str:
        return f"{self.source} variation {self.std:g}"


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


class IRDropNoise(Spec):
    """IR drop, a first-order approximation: wires with resistance take voltage from the cells.

    G / (1 + loss), loss_ij = r_row sum_m min(j, m) G_im + r_col sum_m min(i, m) G_mj over the cells
    of a tile, counted from the drivers and the ADCs. It holds up to a loss of 1 and is refused
    beyond. Nothing is random; it comes last of the models on devices.
    """

    model: Literal["ir_drop"] = "ir_drop"
    row_segment: Level = Field(
        default=0.0, description="Ohms of a row's wire from one cell to the next."
    )
    column_segment: Level = Field(
        default=0.0, description="Ohms of a column's wire from one cell to the next."
    )

    def __str__(self) -> str:
        return (
            f"IR drop to first order, {self.row_segment:g} and {self.column_segment:g} ohm "
            "a segment of row and column"
        )


class ReadNoise(Spec):
    """Weight noise drawn anew for every input vector of every product.

    sigma_w^2 = (additive (W_max - W_min))^2 + (multiplicative w)^2, on the weights of the chip, and
    for each device of a pair sigma(G)^2 at the conductance that the chip's weight stands for.
    """

    model: Literal["read"] = "read"
    additive: Level = Field(default=0.0, description="Share of W_max - W_min.")
    multiplicative: Level = Field(default=0.0, description="Share of the weight itself.")
    sigma: Curve | None = Field(
        default=None, description="Standard deviation of each device over its conductance."
    )

    def __str__(self) -> str:
        shares = max(self.additive, self.multiplicative)
        return f"read noise {shares:g}" if shares else "read noise"


class OutputNoise(Spec):
    """Additive noise on what the ADC converts: sigma = std (Y_max - Y_min)."""

    model: Literal["output"] = "output"
    std: Level = Field(description="Share of the ADC's range Y_max - Y_min.")

    def __str__(self) -> str:
        return f"output noise {self.std:g}"


class CustomNoise(Spec):
    """A Python function: ``package.module:function``, or the name of an entry point.

    Entry points are of the group ``analogize.noise``. On ``weights`` the function is called as
    ``f(weights, w_min, w_max, generator, **parameters)`` and returns the deviation; on ``devices``
    as ``f(conductances, drift_time, generator, **parameters)`` and returns new conductances.
    """

    model: Literal["custom"] = "custom"
    function: Text = Field(description="'package.module:function' or an entry point's name.")
    on: Literal["weights", "devices"] = Field(
        default="weights", description="What it is given: weights, or conductances."
    )
    parameters: dict[str, Any] = Field(
        default={}, description="Further arguments of the function, by name."
    )

    def __hash__(self) -> int:
        return hash((self.function, self.on, repr(sorted(self.parameters.items()))))

    def __str__(self) -> str:
        return self.function


WeightModel = GaussianNoise | FixedSNRNoise
DeviceModel = (
    ProgrammingNoise
    | RelaxationNoise
    | DriftNoise
    | LogDriftNoise
    | OneOverFNoise
    | VariationNoise
    | StuckNoise
    | IRDropNoise
)
ProductModel = ReadNoise | OutputNoise
NoiseModel = Annotated[
    WeightModel | DeviceModel | ProductModel | CustomNoise, Field(discriminator="model")
]


def acts_on_devices(model: NoiseModel) -> bool:
    """Whether ``model`` changes conductances."""
    return isinstance(model, DeviceModel) or (
        isinstance(model, CustomNoise) and model.on == "devices"
    )
