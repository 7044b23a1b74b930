"""Whether compiled code uses a chip with the weights that it was programmed from.

Outside of compiled code an operator asks for itself. A graph can only call an operator of torch
that does: it finds the analog operator by a number, compares, and gives the 1 that the graph
multiplies by, so that no compiler takes it for dead code.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp

_numbers = count()
_operators: WeakValueDictionary[int, AnalogOp] = WeakValueDictionary()


def enter(op: AnalogOp) -> int:
    """The number of ``op``, under which compiled code finds it; a copy needs one of its own."""
    number = next(_numbers)
    _operators[number] = op
    return number


def proven(op: AnalogOp, y: Tensor, weight: Tensor | None) -> Tensor:
    """``y``, in a graph times the 1 that shows that the chip of ``op`` is of the weight used.

    Args:
        op: the operator.
        y: what its chip gave.
        weight: what it was given as its weight; None for a part of the stored one.
    """
    # What is exported runs elsewhere, where no operator is.
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return y
    now = op.stored.value() if weight is None else weight
    found: Tensor = _proof(now.detach(), op.number)
    return y * found.to(y.dtype)


@torch.library.custom_op("analogize::chip_is_of", mutates_args=())
def _proof(weight: Tensor, number: int) -> Tensor:
    op = _operators[number]
    if op.array.witness is not None:
        op.array.programmed(weight, op.stored)
    return weight.new_ones((), dtype=torch.float32)


@_proof.register_fake
def _(weight: Tensor, number: int) -> Tensor:
    return weight.new_empty((), dtype=torch.float32)
