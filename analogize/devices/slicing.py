"""Codes as digits: bit slicing over cells, bit-serial inputs.

A zero-centred integer code c is sign(c) |c|, and |c| = sum_k digit_k 2^(k bits) with digits from 0
to 2^bits - 1; every digit keeps the sign. Weights are split over as many cells, inputs are applied
one digit after the other, and the partial products are shifted and added digitally.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor


def digits_of(largest: float, bits: int) -> int:
    """How many digits of ``bits`` bits hold every code of magnitude up to ``largest``."""
    return max(1, ceil(int(largest).bit_length() / bits))


def split(codes: Tensor, bits: int, digits: int) -> Tensor:
    """The digits of integer codes, least significant first; shape (digits, *codes.shape).

    Args:
        codes: zero-centred integer codes in a floating dtype that holds them exactly.
        bits: bits of a digit.
        digits: how many; the codes' magnitudes are below 2^(bits digits).
    """
    base, rest, sign = 2.0**bits, codes.abs(), codes.sign()
    found = []
    for _ in range(digits):
        above = (rest / base).floor()
        found.append((rest - above * base) * sign)
        rest = above
    return torch.stack(found)


def combine(parts: Tensor, bits: int) -> Tensor:
    """The codes that digits stand for; digits may be noisy. Inverse of ``split``."""
    factors = 2.0 ** (bits * torch.arange(len(parts), device=parts.device))
    return (parts * factors.to(parts.dtype).view(-1, *[1] * (parts.ndim - 1))).sum(0)


def whole_step(largest: float, highest_code: float) -> float:
    """The least whole number of units with which codes up to ``highest_code`` cover ``largest``."""
    return float(max(1, ceil(largest / highest_code)))
