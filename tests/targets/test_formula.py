"""Noise models in words: every number of the model is in the formula, with its sign and unit."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from analogize.targets import load_target, names
from analogize.targets.formula import formula
from analogize.targets.noise import NoiseModel

FLAT = {"kind": "polynomial", "coefficients": [0.5]}
FALLING = {"kind": "logarithmic", "slope": -0.2, "intercept": 0.1, "min": 0.0, "max": 1.0}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"model": "gaussian", "eta": 0.1}, "Gaussian, eta 0.1: sigma_N = eta (W_max - W_min)"),
        ({"model": "fixed_snr", "ratio": 0.5}, "Gaussian, sigma_N / sigma_W 0.5"),
        (
            {
                "model": "programming",
                "sigma": {"kind": "polynomial", "coefficients": [1, -2, 3], "reference": 25.0},
            },
            "programming noise, sigma(G) = 1 - 2 x + 3 x^2 uS, x = G / 25",
        ),
        (
            {"model": "relaxation", "points": [{"time": 60.0, "sigma": FLAT}]},
            "programming noise over time\n  sigma(G) = 0.5 uS, at 60 s",
        ),
        (
            {"model": "drift", "t0": 20.0, "nu_mean": FALLING, "nu_std": FLAT},
            "drift, G ((t + t0) / t0)^-nu, t0 = 20 s\n"
            "  mean of nu = -0.2 ln G + 0.1 in [0, 1]\n  deviation of nu = 0.5",
        ),
        (
            {"model": "log_drift", "mean_slope": -0.1, "std_intercept": 0.4, "std_slope": 0.03},
            "drift from 1 s on, mean -0.1 ln t, deviation 0.4 + 0.03 ln t uS",
        ),
        (
            {
                "model": "one_over_f",
                "q": {"kind": "power", "coefficient": 0.01, "exponent": 0.65, "max": 0.2},
                "t_read": 1e-6,
                "t0": 20.0,
            },
            "1/f noise, sigma = G Q sqrt(ln((t + t0 + t_read) / (2 t_read))), t0 = 20 s, "
            "t_read = 1e-06 s\n  Q = min(0.01 / G^0.65, 0.2)",
        ),
        (
            {"model": "variation", "source": "device", "distribution": "lognormal", "std": 0.1},
            "device variation, lognormal factor, std 0.1",
        ),
        (
            {"model": "stuck", "at_min": 0.001, "at_max": 0.02},
            "stuck devices, 0.100% at g_min and 2.000% at g_max",
        ),
        (
            {
                "model": "read",
                "additive": 0.01,
                "multiplicative": 0.02,
                "sigma": {"kind": "saturating", "amplitude": 12.5, "constant": 200.0},
            },
            "read noise of every product, sigma_w = 0.01 (W_max - W_min); sigma_w = 0.02 |w|; "
            "sigma(G) = 12.5 (1 - exp(-G / 200)) uS of each device",
        ),
        (
            {"model": "output", "std": 0.04},
            "output noise of every product, sigma = 0.04 (Y_max - Y_min)",
        ),
        (
            {"model": "ir_drop", "row_segment": 1.0, "column_segment": 2.5},
            "IR drop, 1 and 2.5 ohm a segment of row and column",
        ),
        ({"model": "custom", "function": "mine:noise"}, "mine:noise"),
        (
            {
                "model": "programming",
                "sigma": {"kind": "piecewise", "split": 5.0, "low": FLAT, "high": FALLING},
            },
            "programming noise, sigma(G) = 0.5 uS below G = 5,\n"
            "    -0.2 ln G + 0.1 in [0, 1] uS from there on",
        ),
    ],
)
def test_formula(model: dict[str, Any], text: str) -> None:
    parsed: NoiseModel = TypeAdapter(NoiseModel).validate_python(model)
    assert formula(parsed, "uS") == text


@pytest.mark.parametrize("name", names())
def test_every_built_in_model_fits_the_width_that_show_gives_it(name: str) -> None:
    target = load_target(name)
    unit = "" if target.conductance is None else target.conductance.unit
    lines = [line for model in target.noise for line in formula(model, unit).splitlines()]
    assert all(len(line) <= 104 for line in lines), [len(line) for line in lines]
