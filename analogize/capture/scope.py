"""What the interceptions of one rewritten model share, and what they tell of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from analogize.crossbar.ops import AnalogOp
from analogize.errors import CaptureError
from analogize.model.expression import Expression
from analogize.model.module import DigitalProduct
from analogize.passes.lower import layout
from analogize.product import Product


@dataclass(frozen=True)
class Part:
    """A tensor computed from parameters: a whole, and moves that depend on the input.

    Attributes:
        whole: the static expression, which a chip can hold.
        moves: functions that take a chip of the whole to one of this part; () for the whole.
        blocks: leading dimensions of the whole, where there are moves.
    """

    whole: Expression
    moves: tuple[Callable[[Any], Any], ...] = ()
    blocks: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Equal keys share an array."""
        return self.whole.key + "[*]" * bool(self.moves)

    def through(self, chip: Any) -> Any:
        """The same part of ``chip``."""
        for move in self.moves:
            chip = move(chip)
        return chip


@dataclass
class Scope:
    """What the modules of one rewritten model share: its operators by their key, and its weights.

    Copied and pickled with them. It says nothing of a running call: several may run at once.

    Attributes:
        operators: by the weight's key and the product.
        owners: the module and the attribute of each parameter and buffer that is followed.
        told: keys of products about which nothing more need be said.
        met: products that ran digitally since, because the example inputs did not lead to them.
    """

    operators: dict[tuple[str, Product], AnalogOp] = field(default_factory=dict)
    owners: dict[str, tuple[nn.Module, str]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    met: dict[str, DigitalProduct] = field(default_factory=dict)

    def follow(self, root: nn.Module, names: Iterable[str]) -> None:
        """Follow these parameters and buffers of ``root``."""
        for name in names:
            path, _, attribute = name.rpartition(".")
            self.owners[name] = root.get_submodule(path), attribute

    def beside(self, key: str, product: Product) -> AnalogOp | None:
        """An operator whose array can be read as ``product``: it holds that weight, laid so."""
        for (known, made), op in self.operators.items():
            if known == key and layout(made) == layout(product):
                return op
        return None

    def refuse_other_size(self, part: Part, product: Product) -> None:
        """Refuse a product that is known but for the numbers in the way its weight was cut.

        Raises:
            CaptureError: with what was known.
        """
        if part.whole.function is None or _picks_one(part.key):
            return
        for key, known in self.operators:
            if key == part.key and type(known) is type(product):
                raise CaptureError(
                    f"the product with '{key}' is {product} here and was {known} on the example "
                    "inputs, which lies in an array in another way. Give example_inputs that lead "
                    "to both, or name it in digital="
                )
            if _NUMBER.sub("#", key) == _NUMBER.sub("#", part.key) and type(known) is type(product):
                raise CaptureError(
                    f"the weight '{part.key}' of a product was '{key}' on the example inputs; its "
                    "array holds no other. Make the cut independent of the input's size, give "
                    "example_inputs of the size that is used, or name it in digital="
                )


_NUMBER = re.compile(r"(?<![\w.])-?\d+")


def _picks_one(key: str) -> bool:
    """Whether a key ends in one index: another index is another weight, not another size."""
    return re.search(r"(__getitem__|select)\([^()]*, (0, )?-?\d+\)$", key) is not None


# Of this thread or task, innermost last.
RUNNING: ContextVar[tuple[Any, ...]] = ContextVar("interceptions", default=())


@contextmanager
def paused() -> Iterator[None]:
    """In the block an operator's own arithmetic runs, which nobody is to intercept."""
    runs = [run for run in RUNNING.get() if not run.is_paused]
    try:
        for run in runs:
            run.is_paused = True
        yield
    finally:
        for run in runs:
            run.is_paused = False


class Watcher(Protocol):
    """Sees what an interception meets; used to find out what a model does."""

    def met(self, values: tuple[Any, ...]) -> None:
        """A function is about to run on weights, among other values."""

    def derived(self) -> None:
        """A weight was computed from another."""

    def distance(self, part: Part, operator: str) -> None:
        """A function is about to compare inputs with a stored weight."""

    def product(
        self, part: Part, product: Product, operator: str, weight: Tensor, arguments: dict[str, Any]
    ) -> None:
        """A product with a stored weight is about to run."""
