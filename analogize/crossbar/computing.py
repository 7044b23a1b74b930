"""Which form of an operator's arithmetic a call needs: for values, gradients or transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from analogize.crossbar import arithmetic, tiled
from analogize.crossbar.arithmetic import Differentiable, Dtypes, Stages
from analogize.crossbar.learned import Ranges
from analogize.crossbar.tiled import TiledDifferentiable, Tiles
from analogize.errors import EvaluationError
from analogize.model import transforms
from analogize.product import Product

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp


def compute(
    op: AnalogOp,
    how: Product | Tiles,
    x: Tensor,
    weight: Tensor,
    ranges: Ranges,
    used: Tensor,
    stages: Stages,
    dtypes: Dtypes,
) -> Tensor:
    """The product with the weights ``used``, differentiable where something asks for it.

    Args:
        op: the operator.
        how: its product, or its tiles where they convert their own sums.
        x: its input.
        weight: the weight that receives the gradient.
        ranges: of converters whose range is learned, which receive one too.
        used: the weights of this pass, in array units.
        stages: of this call.
        dtypes: likewise.

    Raises:
        EvaluationError: noise of each product under vmap, which was not told its randomness.
    """
    if transforms.are_active():
        return _transformed(op, how, x, weight, used, stages, dtypes)
    asking = (x, weight, *ranges) if torch.is_grad_enabled() else ()
    differentiable = any(t is not None and t.requires_grad for t in asking)
    if not differentiable and isinstance(how, Tiles):
        return tiled.infer(x, used, how, stages, dtypes)
    if not differentiable and not isinstance(how, Tiles):
        return arithmetic.infer(x, used, how, stages, dtypes)
    function = TiledDifferentiable if isinstance(how, Tiles) else Differentiable
    operands = x, weight, *ranges, used, op.array, how, stages, dtypes
    y: Tensor = function.apply(*operands)[0]
    return y


def _transformed(
    op: AnalogOp,
    how: Product | Tiles,
    x: Tensor,
    weight: Tensor,
    used: Tensor,
    stages: Stages,
    dtypes: Dtypes,
) -> Tensor:
    try:
        if isinstance(how, Tiles):
            return tiled.transformed(x, weight, used, op.array, how, stages, dtypes)
        return arithmetic.transformed(x, weight, used, op.array, how, stages, dtypes)
    except RuntimeError as cause:
        if "randomness" not in str(cause):
            raise
        raise EvaluationError(
            f"region '{op.region.name}' draws noise for every product, and vmap has to know "
            "whether its samples share it: vmap(..., randomness='different'), or 'same'"
        ) from cause
