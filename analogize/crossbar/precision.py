"""What an operator computes in: the digital operator's dtype, unless codes would suffer."""

from __future__ import annotations

import torch
from torch import Tensor

from analogize.crossbar.arithmetic import Dtypes

# Zero-centred codes up to this magnitude are exact in bfloat16 (8 significant bits).
_EXACT_IN_BFLOAT16_BITS = 8
_SAME = {dtype: Dtypes(dtype, dtype) for dtype in (torch.float32, torch.float64)}


def dtypes(x: Tensor, in_codes: bool, bits: int) -> Dtypes:
    """What to compute in on the input ``x``.

    Codes must stay exact and their sums finite: more than 8 bits do not fit bfloat16, and sums of
    codes overflow float16, so either goes through float32.

    Args:
        x: the input.
        in_codes: whether inputs or weights are codes.
        bits: the most that either has.
    """
    native, device = x.dtype, x.device.type
    if torch.is_autocast_enabled(device) and native != torch.float64:
        native = torch.get_autocast_dtype(device)
    if native in (torch.float32, torch.float64):
        return _SAME[native]
    fits = native == torch.bfloat16 and bits <= _EXACT_IN_BFLOAT16_BITS
    return Dtypes(torch.float32 if in_codes and not fits else native, native)


def autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Operands as autocast casts them for a digital product; below it, products run as they are."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or torch.float64 in (x.dtype, weight.dtype):
        return x, weight
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype)
