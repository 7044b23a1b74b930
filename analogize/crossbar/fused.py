"""A converter as one kernel of Triton, for accelerators; imported only where Triton is.

The same arithmetic as rounding.py's, to the bit: a true division, rounding half to even, and every
value rounded to the tensor's own dtype after every step, as torch does between its kernels. Under
``TRITON_INTERPRET=1`` it runs on a CPU, which is how its tests run.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# In float32, adding and subtracting 1.5 * 2^23 rounds to an integer, half to even, below 2^22.
_ROUND = tl.constexpr(12582912.0)
_BLOCK = 2**16 if os.environ.get("TRITON_INTERPRET") == "1" else 1024


@triton.jit  # type: ignore[untyped-decorator]
def _convert(  # type: ignore[no-untyped-def]
    values,
    out,
    beyond,
    step,
    gain,
    low,
    high,
    count,
    HAS_GAIN: tl.constexpr,  # noqa: N803
    HAS_BEYOND: tl.constexpr,  # noqa: N803
    ADDS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One block of ``convert``; comparisons instead of minimum and maximum let NaN through."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    value = tl.load(values + at, mask=inside, other=0.0)
    own = value.dtype
    q = tl.div_rn(value.to(tl.float32), tl.load(step)).to(own).to(tl.float32)
    q = tl.where(q < low - 1, low - 1, tl.where(q > high + 1, high + 1, q))
    q = (q + _ROUND) - _ROUND
    code = tl.where(q < low, low, tl.where(q > high, high, q))
    if HAS_BEYOND:
        tl.store(beyond + at, (code != q).to(tl.int8), mask=inside)
    code = code.to(own)
    if HAS_GAIN:
        code = (code.to(tl.float32) * tl.load(gain)).to(own)
    code = code.to(out.dtype.element_ty)
    if ADDS:
        total = tl.load(out + at, mask=inside, other=0.0)
        code = (total.to(tl.float32) + code.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + at, code, mask=inside)


def convert(
    values: Tensor,
    step: Tensor,
    low: float,
    high: float,
    gain: Tensor | None,
    dtype: torch.dtype,
    wants_beyond: bool,
) -> tuple[Tensor, Tensor]:
    """As rounding.py's ``convert``; an empty tensor where ``beyond`` is not wanted."""
    out = torch.empty_like(values, dtype=dtype)
    if out.stride() != values.stride():
        # Kernels go along memory, so both must lie in it alike.
        values = values.contiguous()
        out = torch.empty_like(values, dtype=dtype)
    return out, _run(values, out, step, low, high, gain, wants_beyond, adds=False)


def accumulate(
    total: Tensor, values: Tensor, step: Tensor, low: float, high: float, wants_beyond: bool
) -> Tensor:
    """As rounding.py's ``accumulate``; an empty tensor where ``beyond`` is not wanted."""
    if total.stride() != values.stride():
        values = torch.empty_like(total, dtype=values.dtype).copy_(values)
    return _run(values, total, step, low, high, None, wants_beyond, adds=True)


def _run(
    values: Tensor,
    out: Tensor,
    step: Tensor,
    low: float,
    high: float,
    gain: Tensor | None,
    wants_beyond: bool,
    adds: bool,
) -> Tensor:
    """Fill ``out``, or add to it; returns ``beyond``. Both lie in memory as ``values`` do."""
    # One number may be on the CPU, as with torch's own operators.
    step, gain = step.to(values.device), None if gain is None else gain.to(values.device)
    beyond = torch.empty_like(values if wants_beyond else step, dtype=torch.bool)
    count = values.numel()
    grid = (triton.cdiv(count, _BLOCK),)
    if count:
        kernel: Any = _convert[grid]
        kernel(
            values,
            out,
            beyond.view(torch.int8),
            step,
            step if gain is None else gain,
            low,
            high,
            count,
            HAS_GAIN=gain is not None,
            HAS_BEYOND=wants_beyond,
            ADDS=adds,
            BLOCK=_BLOCK,
        )
    return beyond
