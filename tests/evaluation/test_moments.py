from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from analogize.evaluation.moments import Moments, believed, blended, matching

FINITE = st.floats(-3, 3)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), FINITE), min_size=1, max_size=4),
    st.integers(2, 40),
    st.booleans(),
)
def test_a_known_affine_error_is_undone_exactly(
    errors: list[tuple[float, float]], images: int, shrink: bool
) -> None:
    generator = torch.Generator().manual_seed(images)
    right = torch.randn(images, len(errors), 5, 5, generator=generator, dtype=torch.float64)
    scale, offset = torch.tensor(errors, dtype=torch.float64).T
    wrong = right * scale.view(-1, 1, 1) + offset.view(-1, 1, 1)
    seen, wanted = Moments(), Moments()
    for moments, values in ((seen, wrong), (wanted, right)):
        moments.add(values[:1], (True, False, False))
        moments.add(values[1:], (True, False, False))
    found_scale, found_offset = matching(seen, wanted, shrink)
    # Differences of squares lose half of float64's digits where offsets exceed deviations.
    torch.testing.assert_close(found_scale, 1 / scale, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found_offset, -offset / scale, rtol=1e-6, atol=1e-6)


def test_shifts_within_their_sampling_error_are_not_believed() -> None:
    """Fresh images of the distribution that was trained on: on average nothing may move much."""
    generator = torch.Generator().manual_seed(0)
    distance, plain = 0.0, 0.0
    for _ in range(20):
        moments = Moments()
        moments.add(torch.randn(32, 64, 3, 3, generator=generator), (True, False, False))
        mean, _ = blended(moments, torch.zeros(64), torch.ones(64))
        raw, _ = blended(moments, torch.zeros(64), torch.ones(64), shrink=False)
        distance, plain = distance + float(mean.square().sum()), plain + float(raw.square().sum())
    # The share that is believed falls off by chance as 1 - sum v / sum d^2, whose deviation for 64
    # channels is about sqrt(2 / 64): its square leaves a few percent of the error.
    assert distance < 0.1 * plain


def test_large_shifts_are_believed() -> None:
    assert float(believed(torch.full((8,), 3.0), torch.full((8,), 0.01))) > 0.99
    assert float(believed(torch.zeros(8), torch.zeros(8))) == 0.0


def test_one_image_changes_nothing() -> None:
    moments = Moments()
    moments.add(torch.randn(1, 4, 5, 5), (True, False, False))
    mean, variance = blended(moments, torch.zeros(4), torch.ones(4))
    assert torch.equal(mean, torch.zeros(4).double())
    assert torch.equal(variance, torch.ones(4).double())
