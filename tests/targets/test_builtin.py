"""The built-in targets: what the paper says, and noise levels that follow from cited figures."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from analogize import analogize
from analogize.crossbar.ops import operators
from analogize.devices.curves import evaluate
from analogize.targets import load_target, names
from analogize.targets.load import sources
from analogize.targets.noise import ProgrammingNoise
from analogize.targets.spec import (
    Converter,
    GaussianNoise,
    PercentileRange,
    StdRange,
    Target,
    Weights,
)

Law = Callable[[np.ndarray], np.ndarray]

PERCENTILES = PercentileRange(low=0.1, high=99.9)


def test_the_set() -> None:
    assert set(names()) == {
        "afm_2025",
        "afm_2025_pcm",
        "ideal",
        "isaac",
        "paper_lenet5_8bit",
        "paper_resnet18_4bit",
        "paper_resnet32",
        "paper_resnet50",
        "pcm_4bit",
        "pcm_8bit",
        "pcm_hermes",
        "pcm_joshi2020",
        "reram_4bit",
        "reram_8bit",
        "reram_cmo",
        "reram_milo2021",
        "reram_wan2022",
        "sonos_tcas2022",
    }


@pytest.mark.parametrize("name", names())
def test_every_target_is_named_after_its_file_and_cites_its_sources(name: str) -> None:
    target = load_target(name)

    assert target.name == name
    assert target.description
    assert target.references or target.name == "ideal"
    assert sources(name)[0].text.startswith("# ")


@pytest.mark.parametrize("name", names())
def test_arrays_of_a_size_convert_their_own_sums_and_others_say_that_none_is_known(
    name: str,
) -> None:
    size = load_target(name).array

    assert size is None or size.tiling
    text = " ".join(source.text for source in sources(name)).lower()
    assert size is not None or "tile" in text or "size of the array" in text


@pytest.mark.parametrize("name", names())
def test_devices_with_converters_say_what_their_source_does_for_transformers(name: str) -> None:
    target = load_target(name)
    if target.technology == "generic" or target.adc.bits is None or name == "isaac":
        return
    text = " ".join(source.text for source in sources(name))
    assert "Transformers" in text or "Analog Foundation Models" in text


def test_ideal_does_nothing() -> None:
    ideal = load_target("ideal")

    assert ideal == Target(name="ideal", description=ideal.description)


@pytest.mark.parametrize(("name", "eta"), [("paper_resnet32", 0.057), ("paper_resnet50", 0.04)])
def test_the_papers_clipped_networks(name: str, eta: float) -> None:
    target = load_target(name)

    assert target.weights == Weights(range=StdRange(multiple=2))
    assert target.noise == (GaussianNoise(eta=eta),)
    assert target.dac == target.adc == Converter()


@pytest.mark.parametrize(
    ("name", "bits", "eta"), [("paper_lenet5_8bit", 8, 0.2), ("paper_resnet18_4bit", 4, 0.057)]
)
def test_the_papers_quantized_networks(name: str, bits: int, eta: float) -> None:
    target = load_target(name)

    assert target.weights == Weights(range=PERCENTILES, bits=bits)
    assert target.noise == (GaussianNoise(eta=eta),)
    assert target.dac == target.adc == Converter(bits=bits, range=PERCENTILES)


@pytest.mark.parametrize("device", ["pcm", "reram"])
def test_the_8_bit_devices_differ_in_the_weight_grid_alone(device: str) -> None:
    four, eight = load_target(f"{device}_4bit"), load_target(f"{device}_8bit")
    same = {"name": "", "description": "", "weights": Weights()}

    assert (four.weights.bits, eight.weights.bits) == (4, 8)
    assert four.weights.model_copy(update={"bits": 8}) == eight.weights
    assert four.model_copy(update=same) == eight.model_copy(update=same)


def level(law: Law, g_max: float) -> tuple[float, float]:
    """The root mean square of the pair's noise in uS, and over 2 Gmax.

    The mean is over normally distributed weights clipped at two standard deviations (the range of
    these targets): the inside by the trapezoidal rule, with an error far below the three digits
    that are compared, and the clipped tails as a point mass at the end.
    """
    z = np.linspace(-2, 2, 20001)
    pair = law(np.abs(z) / 2) ** 2 + law(np.zeros(1)) ** 2
    inside = np.sum((pair * norm.pdf(z))[1:] + (pair * norm.pdf(z))[:-1]) / 2 * (z[1] - z[0])
    rms = float(np.sqrt(inside + 2 * norm.sf(2) * pair[-1]))
    return rms, rms / (2 * g_max)


def extremes(law: Law, g_max: float) -> tuple[float, float]:
    """The pair's noise over 2 Gmax for a weight of zero, and its largest."""
    x = np.linspace(0, 1, 10001)
    pair = np.sqrt(law(x) ** 2 + law(np.zeros(1)) ** 2) / (2 * g_max)
    return float(pair[0]), float(pair.max())


def joshi(x: np.ndarray) -> np.ndarray:
    """Programming noise in uS, aihwkit's fit, Gmax 25 uS."""
    return 0.26348 + 1.9650 * x - 1.1731 * x**2


def joshi_crosssim(x: np.ndarray) -> np.ndarray:
    """The same, CrossSim's fit."""
    g = 25 * x
    return 0.28638599 + 0.07585724 * g - 0.00178767 * g**2


def hermes(x: np.ndarray) -> np.ndarray:
    """The HERMES chip, two devices a weight, Gmax 20.7 uS."""
    return 0.16603222 + 4.71806468 * x - 8.48101252 * x**2 + 4.68961419 * x**3


def wan(x: np.ndarray) -> np.ndarray:
    """NeuRRAM after one second, CrossSim's fit, Gmax 39.26 uS."""
    g = 39.26 * x
    return 1.053 + 0.2374 * g - 1.167e-2 * g**2 + 1.536e-4 * g**3


def wan_aihwkit(x: np.ndarray) -> np.ndarray:
    """The same, aihwkit's fit, Gmax 40 uS."""
    return 0.348 + 16.030 * x - 43.853 * x**2 + 45.393 * x**3 - 16.815 * x**4


def wan_one_day(x: np.ndarray) -> np.ndarray:
    """After one day, aihwkit's fit, Gmax 40 uS."""
    return 0.701 + 22.086 * x - 50.773 * x**2 + 47.095 * x**3 - 16.458 * x**4


@pytest.mark.parametrize(
    ("name", "law", "g_max", "rms"),
    [("pcm_4bit", joshi, 25, 0.844), ("reram_4bit", wan, 39.26, 2.360)],
)
def test_eta_follows_from_the_cited_law(name: str, law: Law, g_max: float, rms: float) -> None:
    (noise,) = load_target(name).noise
    assert isinstance(noise, GaussianNoise)

    found, eta = level(law, g_max)

    # The targets state two significant digits of eta and three decimals of the noise in uS.
    assert noise.eta == pytest.approx(eta, abs=5e-4)
    assert found == pytest.approx(rms, abs=5e-4)


@pytest.mark.parametrize(
    ("law", "g_max", "eta"),
    [
        (joshi_crosssim, 25, 0.017),
        (hermes, 20.7, 0.021),
        (wan_aihwkit, 40, 0.023),
        (wan_one_day, 40, 0.043),
    ],
)
def test_the_other_figures_in_the_comments(law: Law, g_max: float, eta: float) -> None:
    assert level(law, g_max)[1] == pytest.approx(eta, abs=5.1e-4)


@pytest.mark.parametrize(
    ("law", "g_max", "low", "high"), [(joshi, 25, 0.0075, 0.022), (wan, 39.26, 0.019, 0.035)]
)
def test_the_spread_in_the_comments(law: Law, g_max: float, low: float, high: float) -> None:
    assert extremes(law, g_max) == pytest.approx((low, high), abs=5e-4)


def test_analog_foundation_models_figures() -> None:
    """Evaluation noise and clipping of arXiv:2505.09663, written out by hand."""
    training, memory = load_target("afm_2025"), load_target("afm_2025_pcm")
    (noise,) = memory.noise
    assert isinstance(noise, ProgrammingNoise)
    assert noise.bias is not None
    g = torch.tensor([0.3, 1.0, 50.0, 60.0, 180.0], dtype=torch.float64)
    one = 2.9398e-5 * g**3 - 3.7158e-3 * g**2 + 0.22420 * g + 2.5797
    two = 1.2330e-5 * g**3 - 3.0550e-3 * g**2 + 0.24535 * g + 2.1103
    torch.testing.assert_close(
        evaluate(noise.sigma, g), torch.where(g < 0.6, 0, torch.where(g < 52.5, one, two))
    )
    torch.testing.assert_close(evaluate(noise.bias, g), torch.where(g < 0.6, -g, 0.0))
    layer = nn.Linear(64, 8, bias=False)
    (op,) = operators(analogize(layer, training, [torch.randn(200, 64)]))
    weight = layer.weight.detach()
    deviation = weight.std(1, correction=0)
    clipped = weight.clamp(-2.5 * deviation[:, None], 2.5 * deviation[:, None])
    drawn = torch.stack([op.array.noisy(op.array.clean(weight)) for _ in range(200)])
    sigma = (drawn - clipped).square().mean((0, 2)).sqrt()
    # 200 x 64 draws a column: the sample deviation errs by 0.6 %; five of them.
    torch.testing.assert_close(sigma, 0.03 * 2.5 * deviation, rtol=0.03, atol=0)
