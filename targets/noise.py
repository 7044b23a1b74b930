"""The noise models that a target may list: on weights, on devices, and on products.

    on weights    gaussian, fixed_snr            ratios, for any technology
    on devices    programming, write_verify,     conductances of the cells, in the order listed;
                  relaxation, drift, log_drift,  they need ``conductance`` in the target
                  one_over_f, variation, stuck,  (device_noise.py)
                  temperature, ir_drop
    on signals    inl, nonlinear_iv,             inputs, sums and converters of a chip
                  saturation, adc_mismatch       (signal_noise.py)
    on products   read, output                   drawn anew at every product, chip or no chip
    anything      custom                         a Python function of yours

Times are in seconds and count from the end of programming; conductances are in the unit of
``conductance`` (microsiemens by default). ``devices/`` in the package holds each model's formula.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from analogize.targets.base import Count, Level, Spec, Text
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
    TemperatureNoise,
    Validity,
    VariationNoise,
    WriteVerifyNoise,
)
from analogize.targets.signal_noise import (
    ADCMismatchNoise,
    INLNoise,
    NonlinearIVNoise,
    SaturationNoise,
    SignalModel,
)

__all__ = [
    "ADCMismatchNoise",
    "CustomNoise",
    "DeviceModel",
    "DriftNoise",
    "FixedSNRNoise",
    "GaussianNoise",
    "INLNoise",
    "IRDropNoise",
    "LogDriftNoise",
    "NoiseModel",
    "NonlinearIVNoise",
    "OneOverFNoise",
    "OutputNoise",
    "ProductModel",
    "ProgrammingNoise",
    "ReadNoise",
    "RelaxationNoise",
    "RelaxationPoint",
    "SaturationNoise",
    "ScaledModel",
    "SignalModel",
    "StuckNoise",
    "TemperatureNoise",
    "Validity",
    "VariationNoise",
    "WeightModel",
    "WriteVerifyNoise",
    "acts_on_devices",
    "acts_on_signals",
    "depends_on_condition",
    "depends_on_time",
    "holds_until",
    "is_by_device",
    "scale_of",
]


Readings = Annotated[
    Count,
    Field(
        description="Readings that are averaged before the conversion, by integrating so many "
        "times as long: the deviation falls by sqrt(reads)."
    ),
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
    reads: Readings = 1
    scale: Scale = 1.0

    def __str__(self) -> str:
        shares = max(self.additive, self.multiplicative)
        return f"read noise {shares:g}" if shares else "read noise"


class OutputNoise(Spec):
    """Additive noise on what the ADC converts: sigma = std (Y_max - Y_min)."""

    model: Literal["output"] = "output"
    std: Level = Field(description="Share of the ADC's range Y_max - Y_min.")
    reads: Readings = 1

    def __str__(self) -> str:
        return f"output noise {self.std:g}"


class CustomNoise(Spec):
    """A Python function: ``package.module:function``, or the name of an entry point.

    Entry points are of the group ``analogize.noise``. The function is called as ::

        weights                       f(weights, w_min, w_max, generator, **parameters)
        devices                       f(conductances, drift_time, generator, **parameters)
        inputs, outputs, converter    f(values, site, generator, **parameters)

    and returns the deviation (weights) or the new values. One on devices that is listed before
    every model of time changes what is programmed, after one what is read. ``generator`` is the
    chip's. ``site`` (devices/custom.py) says where and under which conditions; a function on
    weights or devices that has a parameter ``site`` is given it by name.
    """

    model: Literal["custom"] = "custom"
    function: Text = Field(description="'package.module:function' or an entry point's name.")
    on: Literal["weights", "devices", "inputs", "outputs", "converter"] = Field(
        default="weights",
        description="What it is given: weights, or conductances; or codes that the rows receive, "
        "sums of columns in array units, what the ADC is given in its steps.",
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
    | WriteVerifyNoise
    | RelaxationNoise
    | DriftNoise
    | LogDriftNoise
    | OneOverFNoise
    | VariationNoise
    | ReadNoise
)
NoiseModel = Annotated[
    WeightModel | DeviceModel | SignalModel | ProductModel | CustomNoise,
    Field(discriminator="model"),
]


def acts_on_devices(model: NoiseModel) -> bool:
    """Whether ``model`` changes conductances."""
    return isinstance(model, DeviceModel) or (
        isinstance(model, CustomNoise) and model.on == "devices"
    )


def is_by_device(model: NoiseModel) -> bool:
    """Whether ``model`` changes every device by itself, wherever it lies."""
    together = isinstance(model, IRDropNoise) or getattr(model, "length", None) is not None
    return isinstance(model, DeviceModel) and not together


def acts_on_signals(model: NoiseModel) -> bool:
    """Whether ``model`` changes inputs, sums or what an ADC is given."""
    return isinstance(model, SignalModel) or (
        isinstance(model, CustomNoise) and model.on in ("inputs", "outputs", "converter")
    )


def depends_on_condition(model: NoiseModel, name: str) -> bool:
    """Whether a chip at another value of the condition ``name`` may differ by ``model``.

    A function of the user's is told every condition.
    """
    return isinstance(model, CustomNoise) or (
        isinstance(model, TemperatureNoise) and name == "temperature"
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
        isinstance(model, CustomNoise) and model.on != "weights"
    )
