"""The models of what lies around the devices: drivers, columns and converters.

    inputs      what the rows receive, after the DAC        inl, nonlinear_iv
    outputs     what the columns add up                     saturation
    converter   what the ADC is given, in its own steps     adc_mismatch, inl

They belong to the chip: what is random in them is drawn once a chip (once a pass on fresh noise)
and stays. In noise mode ``"off"`` they are left out, like every other noise. devices/signals.py has
what they compute.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from analogize.targets.base import Count, Level, Positive, Real, Spec


class ADCMismatchNoise(Spec):
    """Gain and offset errors of the ADCs, v -> v (1 + gain N(0, 1)) + offset N(0, 1).

    v is what an ADC is given, in its steps; both normal numbers are drawn once for every ADC of a
    chip. Gain and offset error as data sheets define them, and IEEE Std 1241 (whose text was not
    read for this); that comparators and capacitors of a chip's ADCs miss at random, once and for
    all, is the model of Spear et al., The impact of analog-to-digital converter architecture and
    variability on analog neural network accuracy, IEEE JXCDC (2023), as in CrossSim's ADCs, here
    without their circuits.
    """

    model: Literal["adc_mismatch"] = "adc_mismatch"
    gain: Level = Field(default=0.0, description="Standard deviation of the gain, as a share.")
    offset: Level = Field(default=0.0, description="Standard deviation of the offset, in steps.")
    columns: Count = Field(
        default=1, description="Neighbouring columns of a tile that one ADC serves in turns."
    )

    def __str__(self) -> str:
        return f"ADC gain ± {self.gain:g}, offset ± {self.offset:g} steps"


class INLNoise(Spec):
    """Integral non-linearity of a converter: its deviation from a straight line, in its steps.

    Measured at codes that are equally spaced from the lowest to the highest one, as many as there
    are values; straight lines between. What a data sheet gives as its INL curve (the standards
    are IEEE 1241 for ADCs and 1658 for DACs, whose texts were not read for this). A DAC puts out
    code + deviation(code); an ADC converts v + deviation(v).
    """

    model: Literal["inl"] = "inl"
    on: Literal["inputs", "converter"] = Field(
        description="inputs: of the DACs; converter: of the ADCs."
    )
    deviation: tuple[Real, ...] = Field(
        min_length=2, description="Deviations from the lowest code to the highest, in steps."
    )

    def __str__(self) -> str:
        largest = max(map(abs, self.deviation))
        return f"{'DAC' if self.on == 'inputs' else 'ADC'} non-linearity up to {largest:g} steps"


class NonlinearIVNoise(Spec):
    """Currents that grow as sinh(V / V0), alike for every device.

    What a row receives, x of a largest x_max, acts as x_max sinh(b x / x_max) / sinh(b), with
    b = 2 arcosh(ratio / 2): then ratio = I(V) / I(V / 2) at the largest voltage. I = a x sinh(b V)
    with a state x is the law of Yakopcic et al., A memristor device model, IEEE Electron Device
    Letters 32:1436 (2011), read in public implementations of it.
    """

    model: Literal["nonlinear_iv"] = "nonlinear_iv"
    ratio: Annotated[float, Field(strict=True, ge=2, allow_inf_nan=False)] = Field(
        description="I(V) / I(V / 2) at the largest read voltage; 2 is a resistor."
    )

    def __str__(self) -> str:
        return f"I(V) / I(V/2) = {self.ratio:g}"


class SaturationNoise(Spec):
    """Integrators that saturate before the ADC: no sum is beyond +-limit.

    ``hard``: clamp(s, -limit, limit); ``soft``: limit tanh(s / limit). The limit counts in
    full-scale inputs times full-scale weights, as the ADC's range of kind ``bound`` does.
    """

    model: Literal["saturation"] = "saturation"
    limit: Positive = Field(description="In full-scale inputs times full-scale weights.")
    shape: Literal["hard", "soft"] = Field(default="hard", description="Of the saturation.")

    def __str__(self) -> str:
        return f"integrators saturate at {self.limit:g}"


SignalModel = ADCMismatchNoise | INLNoise | NonlinearIVNoise | SaturationNoise
