"""Noise models as formulas with their numbers, for people."""

from __future__ import annotations

import textwrap
from functools import singledispatch

from analogize.targets.curve import (
    Curve,
    Logarithmic,
    Pieces,
    Piecewise,
    Polynomial,
    Power,
    Saturating,
    Table,
)
from analogize.targets.noise import (
    ADCMismatchNoise,
    DriftNoise,
    FixedSNRNoise,
    GaussianNoise,
    INLNoise,
    LogDriftNoise,
    NoiseModel,
    NonlinearIVNoise,
    OneOverFNoise,
    OutputNoise,
    ProgrammingNoise,
    ReadNoise,
    RelaxationNoise,
    SaturationNoise,
    StuckNoise,
    TemperatureNoise,
    VariationNoise,
    WriteVerifyNoise,
    holds_until,
    scale_of,
)

_WIDTH = 100


def formula(model: NoiseModel, unit: str) -> str:
    """What ``model`` does, in a few lines.

    Args:
        model: any noise model.
        unit: of the conductances.
    """
    text = _formula(model, unit)
    scale, until = scale_of(model), holds_until(model)
    if scale != 1:
        text += f"\n  all of it times {scale:g}"
    return text if until is None else f"{text}\n  up to {until:g} s"


def _wrapped(point: str) -> str:
    """A polynomial of degree 10 has several lines."""
    return textwrap.fill(point, _WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False)


@singledispatch
def _formula(model: NoiseModel, unit: str) -> str:
    return str(model)


@_formula.register
def _(model: GaussianNoise, unit: str) -> str:
    return f"Gaussian, {model}: sigma_N = eta (W_max - W_min)"


@_formula.register
def _(model: FixedSNRNoise, unit: str) -> str:
    return f"Gaussian, {model}"


@_formula.register
def _(model: ProgrammingNoise, unit: str) -> str:
    return f"programming noise, sigma(G) = {curve(model.sigma, unit)}{_bias(model.bias, unit)}"


@_formula.register
def _(model: RelaxationNoise, unit: str) -> str:
    points = [
        f"sigma(G) = {curve(p.sigma, unit)}{_bias(p.bias, unit)}, at {p.time:g} s"
        + ("" if p.valid is None else f", G from {p.valid.min:g} to {p.valid.max:g} {unit}")
        for p in model.points
    ]
    between = ", linear between" if model.interpolation == "linear" else ""
    between += ", sigma at the mean" if model.sigma_at == "mean" else ""
    return "\n  ".join([f"programming noise over time{between}", *map(_wrapped, points)])


def _bias(of: Curve | None, unit: str) -> str:
    return "" if of is None else f", mean {curve(of, unit)}"


@_formula.register
def _(model: DriftNoise, unit: str) -> str:
    return (
        f"drift, G ((t + t0) / t0)^-nu, t0 = {model.t0:g} s\n"
        f"  mean of nu = {curve(model.nu_mean)}\n"
        f"  deviation of nu = {curve(model.nu_std)}"
    )


@_formula.register
def _(model: LogDriftNoise, unit: str) -> str:
    return (
        f"drift from 1 s on, mean {model.mean_slope:g} ln t, deviation "
        f"{model.std_intercept:g} {_signed(model.std_slope)} ln t {unit}"
    )


@_formula.register
def _(model: OneOverFNoise, unit: str) -> str:
    factor = "sigma(G)" if model.q is None else "G Q"
    text = (
        f"1/f noise, sigma = {factor} sqrt(ln((t + t0 + t_read) / (2 t_read))), "
        f"t0 = {model.t0:g} s, t_read = {model.t_read:g} s"
    )
    if model.q is not None:
        return f"{text}\n  Q = {curve(model.q)}"
    assert model.sigma is not None, "the schema asks for one of the two"
    return f"{text}\n  sigma(G) = {curve(model.sigma, unit)}"


@_formula.register
def _(model: VariationNoise, unit: str) -> str:
    text = f"{model.source} variation, {model.distribution} factor, std {model.std:g}"
    if model.length is None:
        return text
    return f"{text}, correlation exp(-d^2 / (2 {model.length:g}^2)) over d cells"


@_formula.register
def _(model: WriteVerifyNoise, unit: str) -> str:
    return (
        f"programming until within {model.window:g} {unit}, {model.iterations} attempts at most,\n"
        f"  each sigma(G) = {curve(model.sigma, unit)}{_bias(model.bias, unit)}"
    )


@_formula.register
def _(model: TemperatureNoise, unit: str) -> str:
    return (
        f"temperature, G exp(-(E / k) (1 / T - 1 / {model.reference:g} K)), "
        f"{model.min:g} to {model.max:g} K\n  E = {curve(model.activation, 'eV')}"
    )


@_formula.register
def _(model: ADCMismatchNoise, unit: str) -> str:
    served = "" if model.columns == 1 else f", one ADC for {model.columns} columns"
    return f"ADCs, v (1 + {model.gain:g} N(0, 1)) + {model.offset:g} N(0, 1) steps{served}"


@_formula.register
def _(model: INLNoise, unit: str) -> str:
    values = ", ".join(f"{value:g}" for value in model.deviation)
    name = "DAC" if model.on == "inputs" else "ADC"
    return f"{name} deviates by {values} steps, from its lowest code to its highest"


@_formula.register
def _(model: NonlinearIVNoise, unit: str) -> str:
    return f"currents as sinh(V / V0), {model}"


@_formula.register
def _(model: SaturationNoise, unit: str) -> str:
    how = "clamp(s, ±limit)" if model.shape == "hard" else "limit tanh(s / limit)"
    return f"integrators, {how}, limit = {model.limit:g} full-scale products"


@_formula.register
def _(model: StuckNoise, unit: str) -> str:
    return f"stuck devices, {model.at_min:.3%} at g_min and {model.at_max:.3%} at g_max"


@_formula.register
def _(model: OutputNoise, unit: str) -> str:
    text = f"output noise of every product, sigma = {model.std:g} (Y_max - Y_min)"
    return text + _averaged(model.reads)


@_formula.register
def _(model: ReadNoise, unit: str) -> str:
    parts = []
    if model.additive:
        parts.append(f"sigma_w = {model.additive:g} (W_max - W_min)")
    if model.multiplicative:
        parts.append(f"sigma_w = {model.multiplicative:g} |w|")
    if model.sigma is not None:
        parts.append(f"sigma(G) = {curve(model.sigma, unit)} of each device")
    return f"read noise of every product, {'; '.join(parts) or 'none'}{_averaged(model.reads)}"


def _averaged(reads: int) -> str:
    return "" if reads == 1 else f", the mean of {reads} readings"


def curve(of: Curve, unit: str = "") -> str:
    """A curve over conductance as a formula in x, or in G where it has no reference.

    Args:
        of: the curve.
        unit: of its values; empty for numbers.
    """
    if isinstance(of, Piecewise):
        low, high = curve(of.low, unit), curve(of.high, unit)
        return f"{low} below G = {of.split:g},\n    {high} from there on"
    if isinstance(of, Pieces):
        below = [
            f"{curve(each, unit)} below G = {split:g}"
            for each, split in zip(of.curves, of.splits, strict=False)
        ]
        return ",\n    ".join([*below, f"{curve(of.curves[-1], unit)} from there on"])
    x = "G" if of.reference is None else "x"
    match of:
        case Polynomial():
            text = _polynomial(of.coefficients, x)
        case Logarithmic():
            text = f"{of.slope:g} ln {x} {_signed(of.intercept)} in [{of.min:g}, {of.max:g}]"
        case Power():
            text = f"min({of.coefficient:g} / {x}^{of.exponent:g}, {of.max:g})"
        case Saturating():
            text = f"{of.amplitude:g} (1 - exp(-{x} / {of.constant:g}))"
        case Table():
            points = zip(of.conductance, of.value, strict=True)
            text = "through " + ", ".join(f"{value:g} at {x} = {at:g}" for at, value in points)
    text += f" {unit}" if unit else ""
    return text if of.reference is None else f"{text}, x = G / {of.reference:g}"


def _polynomial(coefficients: tuple[float, ...], x: str) -> str:
    powers = ["", f" {x}", *(f" {x}^{power}" for power in range(2, len(coefficients)))]
    first, *rest = zip(coefficients, powers, strict=False)
    return " ".join([f"{first[0]:g}", *(f"{_signed(c)}{power}" for c, power in rest)])


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):g}"
