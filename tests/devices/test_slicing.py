"""Digits: codes there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analogize.devices.slicing import combine, digits_of, split, whole_step


@given(st.lists(st.integers(-(2**15), 2**15), min_size=1), st.integers(1, 8))
def test_there_and_back(codes: list[int], bits: int) -> None:
    values = torch.tensor(codes, dtype=torch.float32)
    digits = digits_of(2**15, bits)

    parts = split(values, bits, digits)

    assert parts.shape == (digits, len(codes))
    assert bool((parts.abs() <= 2**bits - 1).all())
    assert bool((parts * values >= 0).all()), "every digit keeps the sign"
    assert combine(parts, bits).equal(values)


@pytest.mark.parametrize(
    ("largest", "bits", "digits"), [(1, 1, 1), (7, 2, 2), (8, 2, 2), (15, 2, 2), (32767, 2, 8)]
)
def test_digits_of(largest: int, bits: int, digits: int) -> None:
    assert digits_of(largest, bits) == digits


def test_whole_step() -> None:
    assert whole_step(384, 511) == 1
    assert whole_step(512, 511) == 2
