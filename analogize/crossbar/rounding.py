"""What a converter does to values: divide, round half to even, clamp; and scale back.

On an accelerator with Triton that is one kernel (fused.py), elsewhere one kernel a step; both give
the same bits. Whether the fused one works is found out once a device, on values whose result is
known, and where it does not the steps are used, with a warning.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from analogize.quantize import Bound, clamp

aten = torch.ops.aten
_FUSABLE = (torch.float32, torch.bfloat16, torch.float16)
_library: Any = torch.library.Library("analogize", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "convert(Tensor values, Tensor step, float low, float high, Tensor? gain, ScalarType dtype, "
    "bool wants_beyond) -> (Tensor, Tensor)"
)
_library.define(
    "accumulate(Tensor(a!) total, Tensor values, Tensor step, float low, float high, "
    "bool wants_beyond) -> Tensor"
)


def _fused(name: str, *args: Any) -> Any:
    return getattr(importlib.import_module("analogize.crossbar.fused"), name)(*args)


for _name, _device in itertools.product(("convert", "accumulate"), ("CUDA", "CPU")):
    _library.impl(_name, functools.partial(_fused, _name), _device)


def quantized(
    values: Tensor,
    step: Tensor,
    low: float,
    high: float,
    gain: Tensor | None,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """``clamp(round(values / step), low, high) * gain`` in ``dtype``; a new tensor, or ``out``.

    Args:
        values: any shape.
        step: 0-d, float32.
        low: the smallest code, an integer.
        high: the largest.
        gain: 0-d, float32, or None for codes.
        dtype: of the result.
        out: memory that it may be written to, of the form and dtype of ``values``; or None.
    """
    if can_fuse(values):
        codes, _ = torch.ops.analogize.convert(values, step, low, high, gain, dtype, False)
        return codes  # type: ignore[no-any-return]
    quotient = values / step if out is None else torch.div(values, step, out=out)
    codes = _clamp_(quotient.round_(), low, high)
    return (codes if gain is None else codes.mul_(gain)).to(dtype)


def convert(
    values: Tensor,
    step: Tensor,
    low: Bound,
    high: Bound,
    gain: Tensor | None,
    dtype: torch.dtype,
    wants_beyond: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``clamp(round(values / step), low, high) * gain`` in ``dtype``, and where it saturates.

    Overwrites ``values``, or not; nobody may need them afterwards.

    Args:
        values: any shape.
        step: float32, 0-d or broadcast with ``values``, as all that follows.
        low: the smallest code, an integer.
        high: the largest.
        gain: float32, or None for codes.
        dtype: of the result.
        wants_beyond: whether to return where codes are not what rounding gave: True or not 0
            there, one byte an element; None otherwise.
    """
    if can_fuse(values) and all(_is_one(v) for v in (step, low, high, gain)):
        fused = torch.ops.analogize.convert(values, step, low, high, gain, dtype, wants_beyond)
        return fused[0], fused[1] if wants_beyond else None
    rounded = values.div_(step).round_()
    if wants_beyond:
        codes = clamp(rounded, low, high)
        beyond = _differ(rounded, codes)
    else:
        codes, beyond = _clamp_(rounded, low, high), None
    return (codes if gain is None else codes.mul_(gain)).to(dtype), beyond


def accumulate(
    total: Tensor,
    values: Tensor,
    step: Tensor,
    low: Bound,
    high: Bound,
    wants_beyond: bool = False,
) -> Tensor | None:
    """Add to ``total``, in place, the codes that ``convert`` gives in its dtype.

    Args:
        total: shaped as ``values``.
        values: as those of ``convert``, and all that follow.
        step: likewise.
        low: likewise.
        high: likewise.
        wants_beyond: likewise.

    Returns:
        Where the codes saturate, or None.
    """
    if can_fuse(values) and all(_is_one(v) for v in (step, low, high)):
        beyond = torch.ops.analogize.accumulate(total, values, step, low, high, wants_beyond)
        return beyond if wants_beyond else None
    codes, where = convert(values, step, low, high, None, total.dtype, wants_beyond)
    total.add_(codes)
    return where


def _differ(rounded: Tensor, codes: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # Inductor's CPU code for boolean tensors is slow.
        return rounded.sub_(codes).clamp_(-1, 1).to(torch.int8)
    # Neither a comparison nor a boolean's conversion back is vectorized on a CPU.
    return rounded.sub_(codes).to(torch.bool).view(torch.int8)


def _is_one(value: Bound | None) -> bool:
    """Whether it is one number for all values: the fused kernel takes no other."""
    return not isinstance(value, Tensor) or value.ndim == 0


def _clamp_(values: Tensor, low: Bound, high: Bound) -> Tensor:
    """``values.clamp_(low, high)``, by the name under which torch.func.vmap can batch it."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return clamp(values, low, high)
    return aten.hardtanh_(values, low, high)  # type: ignore[no-any-return]


def can_fuse(values: Tensor) -> bool:
    """Whether one kernel does it here: an accelerator, Triton, and plain tensors.

    Compiled code is fused by the compiler itself.
    """
    return (
        (values.is_cuda or (_INTERPRETED and values.is_cpu))
        and values.dtype in _FUSABLE
        and type(values) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and _works(values.device)
    )


_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether the fused kernel runs on ``device`` and gives the bits of the single steps."""
    if importlib.util.find_spec("triton") is None:
        return False
    values = torch.tensor([-1e9, -2.5, -0.3, 0.5, 1.5, 7.49, 7.51, 1e9], device=device)
    step, gain = torch.tensor(0.7, device=device), torch.tensor(0.3, device=device)
    try:
        found, beyond = torch.ops.analogize.convert(values, step, -8, 7, gain, values.dtype, True)
        rounded = (values / step).round_()
        codes = rounded.clamp(-8, 7)
        total = values.clone()
        torch.ops.analogize.accumulate(total, values, step, -8, 7, False)
        same = torch.equal(found, codes * gain) and torch.equal(total, values + codes)
        if same and torch.equal(beyond, rounded != codes):
            return True
        cause: object = "it rounds otherwise"
    except Exception as error:  # whatever a compiler or driver raises, single steps do
        cause = error
    warnings.warn(
        f"analogize runs its converters on {device} step by step, which is slower: the fused "
        f"kernel does not work here ({cause})",
        stacklevel=2,
    )
    return False
