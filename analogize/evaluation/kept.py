"""What recalibration and adaptation may change on a model, to be put back."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.crossbar.fitted import MARK
from analogize.crossbar.ops import operators


class Kept:
    """The digital state of a model as it was: ``restore`` puts it back, and so does a ``with``.

    BatchNorm's statistics, every operator's digital side, and the digital parameters: those of one
    dimension (biases, gains), and the weights of layers that stayed digital.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors: list[Tensor] = [p for _, p in digital_parameters(model)]
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        self._marks = [m.__dict__.get(MARK) for m in self._norms]
        tensors += [b for m in self._norms for b in m.buffers()]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._sides = [(op, op.side) for op in operators(model)]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back that differs."""
        for tensor, before in self._tensors:
            if not torch.equal(tensor, before):
                tensor.copy_(before)
        for op, side in self._sides:
            op.side = side
        for norm, mark in zip(self._norms, self._marks, strict=True):
            norm.__dict__.pop(MARK, None)
            if mark is not None:
                norm.__dict__[MARK] = mark

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()


def digital_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every parameter, with its name, that is neither an array's nor a converter's."""
    analog: set[int] = set()
    for op in operators(model):
        analog.update({id(op.dac.range), id(op.adc.range)})
        behind = op.stored.sources()
        analog.update(map(id, behind or [op.stored.value()]))
    return [(name, p) for name, p in model.named_parameters() if id(p) not in analog]
