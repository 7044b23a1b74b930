"""An array read from its other side: the cells of W, driven along the columns, multiply by W^T.

A target says with ``array.transposable`` that its hardware can do it. The model's product by W^T
then has no cells of its own: what a chip or a pass draws for it is what it draws for W, turned
round. A tile's columns are its inputs then, and its rows its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from torch import Tensor

from analogize.crossbar import noise
from analogize.crossbar.array import FRESH, WeightArray
from analogize.devices.cells import Reading
from analogize.product import Product
from analogize.targets import spec


def turned(target: spec.Target) -> spec.Target:
    """``target`` with its tiles seen from the other side."""
    size = target.array
    assert size is not None, "who can be read from both sides has a size"
    other = size.model_copy(update={"rows": size.cols, "cols": size.rows})
    return target.model_copy(update={"array": other})


class TransposedArray(WeightArray):
    """The array ``home`` as a product by the transpose of its weight uses it.

    Range and grid are those of the transpose, which are the same.
    """

    def __init__(
        self, weight: Tensor, product: Product, target: spec.Target, home: WeightArray, folded: bool
    ) -> None:
        # Its name decides the draws, which are the other side's.
        super().__init__(weight, product, target, home.name, folded)
        # Past nn.Module's register: it belongs to its own operator.
        self._home = (home,)
        home.is_two_sided = self.is_two_sided = True

    @property
    def home(self) -> WeightArray:
        """The array whose cells it reads."""
        return self._home[0]

    def on_cpu(self) -> Self:
        """As ``WeightArray.on_cpu``, of both sides."""
        twin = super().on_cpu()
        twin._home = (self.home.on_cpu(),)
        return twin

    def noisy(
        self,
        clean: Tensor,
        generator: noise.Source = None,
        reading: Reading = FRESH,
    ) -> Tensor:
        """As ``WeightArray.noisy``, of the other side."""
        turned = clean.mT.contiguous()
        found = self.home.noisy(turned, generator, reading)
        return clean if found is turned else found.mT

    def program(
        self,
        weight: Tensor,
        seed: int,
        drift_time: float = 0.0,
        compensation: spec.Compensation | None = None,
        cycle: int = 0,
        name: str | None = None,
        conditions: Mapping[str, float] | None = None,
    ) -> None:
        """As ``WeightArray.program``: the other side's part of the chip, turned round."""
        how = seed, drift_time, compensation, cycle, name, conditions
        with self.turned(weight) as other:
            self.home.program(other, *how)

    @contextmanager
    def turned(self, weight: Tensor) -> Iterator[Tensor]:
        """Within the block the other side is programmed; afterwards this one holds the same.

        Args:
            weight: of this side; the block is given the other one's.
        """
        self.settle(weight)
        home, before = self.home, self.home.witness
        yield weight.detach().mT.contiguous()
        assert home.chip is not None, "it was programmed just now"
        self.hold(home.chip.mT, home.correction, home.origin)
        # Whether it is the chip of the other side's weight is for that side to say.
        home.witness = before
