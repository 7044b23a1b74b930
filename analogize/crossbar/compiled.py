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


def is_traced() -> bool:
    """Whether a graph that runs in this process is being made."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def proof(op: AnalogOp, weight: Tensor) -> Tensor:
    """The number 1, float32 and 0-d, where the chip of ``op`` was programmed from ``weight``."""
    found: Tensor = _proof(weight.detach(), op.number)
    return found


@torch.library.custom_op("analogize::chip_is_of", mutates_args=())
def _proof(weight: Tensor, number: int) -> Tensor:
    op = _operators[number]
    if op.array.witness is not None:
        op.array.programmed(weight, op.stored)
    return weight.new_ones((), dtype=torch.float32)


@_proof.register_fake
def _(weight: Tensor, number: int) -> Tensor:
    return weight.new_empty((), dtype=torch.float32)
