from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analogize.crossbar import noise
from analogize.targets.spec import FixedSNRNoise, GaussianNoise

COUNT = 200_000
# The relative standard error of a standard deviation from n normal values is 1 / sqrt(2 n).
FIVE_SIGMA = 5 / (2 * COUNT) ** 0.5


def test_gaussian_noise_has_the_papers_sigma() -> None:
    weights = torch.randn(COUNT)
    deviation = noise.gaussian(weights, -0.5, 1.5, eta=0.04)
    sigma = 0.04 * 2.0
    assert deviation.std().item() == pytest.approx(sigma, rel=FIVE_SIGMA)
    assert abs(deviation.mean().item()) < 5 * sigma / COUNT**0.5
    correlation = torch.corrcoef(torch.stack([weights, deviation]))[0, 1]
    assert abs(correlation.item()) < 5 / COUNT**0.5


def test_noise_follows_each_channels_range() -> None:
    w_max = torch.tensor([[1.0], [10.0]])
    deviation = noise.gaussian(torch.zeros(2, COUNT), -w_max, w_max, eta=0.1)
    for row, sigma in zip(deviation, (0.2, 2.0), strict=True):
        assert row.std().item() == pytest.approx(sigma, rel=FIVE_SIGMA)


def test_the_level_itself_is_drawn_once_a_call() -> None:
    weights = torch.zeros(2000)
    generator = torch.Generator().manual_seed(1)
    draws = [noise.gaussian(weights, 0.5, 1.5, 0.1, 0.03, generator) for _ in range(2000)]
    levels = torch.stack(draws).std(dim=1)
    # A level's estimate carries its own sampling error, 0.1 / sqrt(2 * 2000) = 0.0016.
    assert levels.mean().item() == pytest.approx(0.1, abs=5 * 0.03 / 2000**0.5 + 1e-3)
    assert levels.std().item() == pytest.approx(0.03, rel=5 / (2 * 2000) ** 0.5 + 0.01)


def test_fixed_snr_noise_follows_the_weights() -> None:
    weights = 3 * torch.randn(COUNT) + 1
    deviation = noise.fixed_snr(weights, ratio=0.6)
    expected = 0.6 * weights.std().item()
    assert deviation.std().item() == pytest.approx(expected, rel=FIVE_SIGMA)


def test_fixed_snr_noise_takes_the_weights_for_all_there_are() -> None:
    """sigma_W is that of the layer's weights, not an estimate from a sample: 1 for -1 and 1."""
    weights = torch.tensor([-1.0, 1.0])
    drawn = torch.stack([noise.fixed_snr(weights, ratio=1.0) for _ in range(COUNT // 2)])
    assert drawn.std().item() == pytest.approx(1.0, rel=FIVE_SIGMA)


@given(st.integers(0, 2**62))
def test_a_generator_decides_the_draw(seed: int) -> None:
    weights = torch.zeros(3, 5)
    first, second = (
        noise.gaussian(weights, -1.0, 1.0, 0.1, 0.02, torch.Generator().manual_seed(seed))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_a_generator_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    noise.gaussian(torch.zeros(10), -1.0, 1.0, 0.1, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", [GaussianNoise(eta=0), FixedSNRNoise(ratio=0)])
def test_silent_models_draw_nothing(model: GaussianNoise | FixedSNRNoise) -> None:
    before = torch.get_rng_state()
    assert noise.draw(model, torch.ones(3), -1.0, 1.0) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_drawn_level_around_zero_is_not_silent() -> None:
    model = GaussianNoise(eta=0, eta_std=0.1)
    assert noise.draw(model, torch.ones(3), -1.0, 1.0) is not None


def test_levels_are_replaced_and_validated() -> None:
    assert noise.at_level(GaussianNoise(eta=0.1, eta_std=0.02), 0.3) == GaussianNoise(
        eta=0.3, eta_std=0.02
    )
    assert noise.level(noise.at_level(FixedSNRNoise(ratio=0.1), 0.6)) == 0.6
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        noise.at_level(GaussianNoise(eta=0.1), -0.1)
