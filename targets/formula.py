"""Noise models as formulas with their numbers, for people."""

from __future__ import annotations

from functools import singledispatch

from analogize.targets.curve import (
    Curve,
    Logarithmic,
    Piecewise,
    Polynomial,
    Power,
    Saturating,
)
from analogize.targets.noise import (
    DriftNoise,
    FixedSNRNoise,
    GaussianNoise,
    LogDriftNoise,
    NoiseModel,
    OneOverFNoise,
    OutputNoise,
    ProgrammingNoise,
    ReadNoise,
    RelaxationNoise,
    StuckNoise,
    VariationNoise,
)


@singledispatch
def formula(model: NoiseModel, unit: str) -> str:
    """What ``model`` does, in a few lines.

    Args:
        model: any noise model.
        unit: of the conductances.
    """
    return str(model)


@formula.register
def _(model: GaussianNoise, unit: str) -> str:
    return f"Gaussian, {model}: sigma_N = eta (W_max - W_min)"


@formula.register
def _(model: FixedSNRNoise, unit: str) -> str:
    return f"Gaussian, {model}"


@formula.register
def _(model: ProgrammingNoise, unit: str) -> str:
    return f"programming noise, sigma(G) = {curve(model.sigma, unit)}"


@formula.register
def _(model: RelaxationNoise, unit: str) -> str:
    points = [f"sigma(G) = {curve(p.sigma, unit)}, at {p.time:g} s" for p in model.points]
    return "\n  ".join(["programming noise over time", *points])


@formula.register
def _(model: DriftNoise, unit: str) -> str:
    return (
        f"drift, G ((t + t0) / t0)^-nu, t0 = {model.t0:g} s\n"
        f"  mean of nu = {curve(model.nu_mean)}\n"
        f"  deviation of nu = {curve(model.nu_std)}"
    )


@formula.register
def _(model: LogDriftNoise, unit: str) -> str:
    return (
        f"drift from 1 s on, mean {model.mean_slope:g} ln t, deviation "
        f"{model.std_intercept:g} {_signed(model.std_slope)} ln t {unit}"
    )


@formula.register
def _(model: OneOverFNoise, unit: str) -> str:
    return (
        "1/f noise, sigma = G Q sqrt(ln((t + t0 + t_read) / (2 t_read))), "
        f"t0 = {model.t0:g} s, t_read = {model.t_read:g} s\n  Q = {curve(model.q)}"
    )


@formula.register
def _(model: VariationNoise, unit: str) -> str:
    return f"{model.source} variation, {model.distribution} factor, std {model.std:g}"


@formula.register
def _(model: StuckNoise, unit: str) -> str:
    return f"stuck devices, {model.at_min:.3%} at g_min and {model.at_max:.3%} at g_max"


@formula.register
def _(model: OutputNoise, unit: str) -> str:
    return f"output noise of every product, sigma = {model.std:g} (Y_max - Y_min)"


@formula.register
def _(model: ReadNoise, unit: str) -> str:
    parts = []
    if model.additive:
        parts.append(f"sigma_w = {model.additive:g} (W_max - W_min)")
    if model.multiplicative:
        parts.append(f"sigma_w = {model.multiplicative:g} |w|")
    if model.sigma is not None:
        parts.append(f"sigma(G) = {curve(model.sigma, unit)} of each device")
    return f"read noise of every product, {'; '.join(parts) or 'none'}"


def curve(of: Curve, unit: str = "") -> str:
    """A curve over conductance as a formula in x, or in G where it has no reference.

    Args:
        of: the curve.
        unit: of its values; empty for numbers.
    """
    if isinstance(of, Piecewise):
        low, high = curve(of.low, unit), curve(of.high, unit)
        return f"{low} below G = {of.split:g},\n    {high} from there on"
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
    text += f" {unit}" if unit else ""
    return text if of.reference is None else f"{text}, x = G / {of.reference:g}"


def _polynomial(coefficients: tuple[float, ...], x: str) -> str:
    powers = ["", f" {x}", *(f" {x}^{power}" for power in range(2, len(coefficients)))]
    first, *rest = zip(coefficients, powers, strict=False)
    return " ".join([f"{first[0]:g}", *(f"{_signed(c)}{power}" for c, power in rest)])


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):g}"
