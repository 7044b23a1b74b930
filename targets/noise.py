"""The noise models that a target may list: on weights, on devices, and on products.

    on weights    gaussian, fixed_snr            ratios, for any technology
    on devices    programming, relaxation,       conductances of the cells, in the order listed;
                  drift, log_drift, one_over_f,  they need ``conductance`` in the target
                  variation, stuck, ir_drop      (device_noise.py)
    on products   read, output                   drawn anew at every product, chip or no chip
    anything      custom                         a Python function of yours

Times are in seconds and count from the end of programming; conductances are in the unit of
``conductance`` (microsiemens by default). ``devices/`` in the package holds each model's formula.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from analogize.targets.base import Level, Spec, Text
from analogize.targets.curve import Curve
from analogize.targets.device_noise import (
    DeviceModel,
    DriftNoise,
    IRDropNoise,
    LogDriftNoise,
    OneOverFNoise,
    ProgrammingNoise,
    RelaxationNoise,
    RelaxationPoint,
    Scale,
    StuckNoise,
    Validity,
    VariationNoise,
)

__all__ = [
    "CustomNoise",
    "DeviceModel",
    "DriftNoise",
    "FixedSNRNoise",
    "GaussianNoise",
    "IRDropNoise",
    "LogDriftNoise",
    "NoiseModel",
    "OneOverFNoise",
    "OutputNoise",
    "ProductModel",
    "ProgrammingNoise",
    "ReadNoise",
    "RelaxationNoise",
    "RelaxationPoint",
    "ScaledModel",
    "StuckNoise",
    "Validity",
    "VariationNoise",
    "WeightModel",
    "acts_on_devices",
    "depends_on_time",
    "holds_until",
    "scale_of",
]


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
    scale: Scale = 1.0

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
    as ``f(conductances, drift_time, generator, **parameters)`` and returns new conductances. Listed
    before every model of time it changes what is programmed, after one what is read.
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
ProductModel = ReadNoise | OutputNoise
ScaledModel = (
    ProgrammingNoise
    | RelaxationNoise
    | DriftNoise
    | LogDriftNoise
    | OneOverFNoise
    | VariationNoise
    | ReadNoise
)
NoiseModel = Annotated[
    WeightModel | DeviceModel | ProductModel | CustomNoise, Field(discriminator="model")
]


def acts_on_devices(model: NoiseModel) -> bool:
    """Whether ``model`` changes conductances."""
    return isinstance(model, DeviceModel) or (
        isinstance(model, CustomNoise) and model.on == "devices"
    )


def scale_of(model: NoiseModel) -> float:
    """The factor on what ``model`` does; 1 for models that have none."""
    return model.scale if isinstance(model, ScaledModel) else 1.0


def holds_until(model: NoiseModel) -> float | None:
    """Seconds after programming up to which ``model`` holds; None without an end of its own."""
    return model.until if isinstance(model, DriftNoise | LogDriftNoise | OneOverFNoise) else None


def depends_on_time(model: NoiseModel) -> bool:
    """Whether a chip read later differs by ``model``; a function of the user's is told the time."""
    return isinstance(model, RelaxationNoise | DriftNoise | LogDriftNoise | OneOverFNoise) or (
        isinstance(model, CustomNoise) and model.on == "devices"
    )
