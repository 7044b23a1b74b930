"""Straight through: what gradients see of converters and weights.

The gradient of every rounding is 1 where the converter does not saturate, and 0 where it does; the
weights are the clean ones. Ordinary gradients are computed explicitly from these pieces. Gradients
of gradients, forward-mode derivatives and the transforms of torch.func take the same function
written in plain operators: a product of real inputs and real weights, of which only the derivatives
are used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analogize.crossbar.array import WeightArray
from analogize.crossbar.rounding import can_fuse, quantized
from analogize.crossbar.scratch import scratch
from analogize.model import transforms

if TYPE_CHECKING:
    from analogize.crossbar.arithmetic import Stages

aten = torch.ops.aten


def is_wanted() -> bool:
    """Whether the running backward pass is to be differentiated or mapped over itself."""
    if torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() or transforms.are_active()


def gradients(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor, made: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for x and weight through ``made(x, weight)``, differentiable where asked for.

    Args:
        ctx: of the operator.
        saved: what it kept, x and weight first.
        grad: of its output.
        made: the operator in plain operators.
    """
    again = torch.is_grad_enabled()
    needs = ctx.needs_input_grad[:2]
    with torch.enable_grad():
        # Aliases: a hook on x itself is called for the gradient that this one is a part of.
        x, weight = (t.view_as(t) for t in saved[:2])
        y = made(x, weight)
    wanted = [t for t, need in zip((x, weight), needs, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=again))
    grad_x, grad_w = (next(found) if need else None for need in needs)
    return grad_x, grad_w


def operands(
    x: Tensor, weight: Tensor, array: WeightArray, stages: Stages, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Inputs and clean weights as the array has them, in the model's units."""
    inputs, held, clean = x.to(dtype), weight.detach(), array.real(weight.detach())
    if stages.x_scale is not None:
        given = x.detach()
        value = inputs_of_gradient(given, stages, dtype)
        if stages.spans is None:
            low, high = stages.x_edges
            value = value * stages.x_scale
            x = torch.where((given > low) & (given < high), x, given)
        inputs = through(value.to(dtype), x)
    passes = array.mask_gradient(torch.ones_like(held), held) != 0
    return inputs, through(clean, torch.where(passes, weight, held)).to(dtype)


def through(value: Tensor, like: Tensor) -> Tensor:
    """``value`` with the derivatives of ``like``; bit for bit, where ``like`` is finite."""
    return value + (like - like.detach()).to(value.dtype)


def stop_saturated(grad: Tensor, excess: Tensor) -> Tensor:
    """``grad`` where ``excess``, one byte an element, is 0, else 0; a new tensor."""
    if torch.compiler.is_compiling():
        # Arithmetic instead of a comparison: Inductor's CPU code for boolean tensors is slow.
        return grad * (1 - excess.to(grad.dtype).abs())
    if can_fuse(grad):  # there the conversion is a part of the kernel
        return aten.hardtanh_backward(grad, excess, -0.5, 0.5)  # type: ignore[no-any-return]
    like = excess.to(grad.dtype)
    return aten.hardtanh_backward.grad_input(grad, like, -0.5, 0.5, grad_input=like)  # type: ignore[no-any-return]


def stop_outside(grad: Tensor, x: Tensor, stages: Stages) -> Tensor:
    """``grad`` where the DAC does not saturate at ``x``, else 0; may overwrite ``grad``."""
    if stages.x_scale is None or stages.spans is not None:
        return grad
    if torch.compiler.is_compiling():
        rounded = (x / stages.x_scale).round()
        beyond = rounded - rounded.clamp(stages.x_low, stages.x_high)
        return grad * (1 - beyond.abs().clamp(max=1))
    return aten.hardtanh_backward.grad_input(grad, x, *stages.x_edges, grad_input=grad)  # type: ignore[no-any-return]


def input_codes(x: Tensor, stages: Stages, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """The DAC: zero-centred codes of ``x`` in ``dtype``, or ``x`` itself without a DAC.

    They may be written to ``out``, which has the form of ``x``.
    """
    if stages.x_scale is None:
        return x.to(dtype)
    if stages.spans is not None:
        return stages.spans.codes(x, stages.x_scale).to(dtype)
    return quantized(x, stages.x_scale, stages.x_low, stages.x_high, None, dtype, out)


def memory_for_codes(
    x: Tensor, stages: Stages, dtype: torch.dtype
) -> AbstractContextManager[Tensor | None]:
    """What ``input_codes`` may write to within the block; None where it would not."""
    if stages.x_scale is None or stages.spans is not None:
        return nullcontext()
    return scratch(x, dtype)


def inputs_of_gradient(
    x: Tensor, stages: Stages, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """What the weights' gradient multiplies by: input codes, in the model's units with ``spans``.

    One step for all inputs is cheaper to multiply by afterwards. ``out`` as for ``input_codes``.
    """
    codes = input_codes(x, stages, dtype, out)
    if stages.spans is None or stages.x_scale is None:
        return codes
    return codes.mul_(stages.spans.measure(x)[0] * stages.x_scale)
