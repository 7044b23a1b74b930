"""A model whose Python was kept, ready for torch's exporter: it is changed while that runs.

torch.export follows the model's own Python. Its analog operators answer with placeholders, and its
BatchNorms with an explicit multiplication and addition; both are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from torch import Tensor, nn

from analogize.crossbar.ops import AnalogOp
from analogize.errors import ExportError
from analogize.model.parts import report_of
from analogize.onnx.writing.placeholder import (
    Placeholder,
    ScaleShift,
    is_stock_batchnorm,
    scale_shift,
)
from analogize.onnx.writing.prepare import Prepared
from analogize.product import Product


@contextmanager
def prepared(
    model: nn.Module, numbers: dict[AnalogOp, int], exact_batchnorm: bool
) -> Iterator[Prepared]:
    """Within the block ``model`` has placeholders instead of analog operators.

    Args:
        model: the rewritten model.
        numbers: each analog operator's number.
        exact_batchnorm: see ``ScaleShift``.
    """
    norms = [m for m in model.modules() if is_stock_batchnorm(m)]
    try:
        for op, number in numbers.items():
            op.__dict__["forward"] = _stand_in(op, number)
            # An operator without any effect would run the digital product instead.
            op._is_bare = False
        for norm in norms:
            _spell_out(norm, exact_batchnorm)
        report = report_of(model)
        digital = () if report is None else report.digital
        yield Prepared(model, {d.name: d for d in digital}, {})
    finally:
        for op in numbers:
            op.__dict__.pop("forward", None)
            op.refresh()
        for norm in norms:
            norm.__dict__.pop("forward", None)
            norm._buffers.pop("alpha", None)
            norm._buffers.pop("beta", None)


def _stand_in(op: AnalogOp, number: int) -> Callable[..., Tensor]:
    def forward(
        x: Tensor,
        weight: Tensor,
        output_padding: tuple[int, ...] | None = None,
        through: Callable[[Tensor], Tensor] | None = None,
        product: Product | None = None,
    ) -> Tensor:
        if product is not None:
            raise ExportError(
                f"region '{op.region.name}' reads its weight as {product} here, and as "
                f"{op.product} on the example inputs of analogize(): give it some that lead here"
            )
        if through is not None:
            raise ExportError(
                f"region '{op.region.name}' multiplies by a part of its weight that the input "
                "chooses, which has no annotated form yet; keep it digital"
            )
        # Each call has a number of its own, so that torch does not merge equal ones.
        return Placeholder(op, number, next(calls)).forward(x, output_padding)

    calls = count()
    return forward


def _spell_out(norm: Any, exact: bool) -> None:
    explicit = ScaleShift(norm, exact)
    for name, values in explicit.named_buffers():
        norm.register_buffer(name, values, persistent=False)
    norm.__dict__["forward"] = lambda x: scale_shift(x, norm.alpha, norm.beta)
