"""Parameters of no layer, by which nothing is multiplied as far as is known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from analogize.model.module import DigitalProduct
from analogize.passes.choice import NO_PRODUCT

logger = logging.getLogger("analogize")

_REASON = "it runs where no example input led, or by no function of torch.nn.functional"


@dataclass
class Idle:
    """Those of one module.

    Attributes:
        names: the attributes that hold them, each with the parameter's name.
        met: by name, those by which something was multiplied since; a model's modules share it.
    """

    names: tuple[tuple[str, str], ...]
    met: dict[str, DigitalProduct]

    def tell(self, name: str, operator: str) -> None:
        """Say once that a product with one of them runs digitally; the summary says it too."""
        if name not in self.met:
            self.met[name] = DigitalProduct(name, operator, _REASON)
            logger.warning("a product with '%s' runs digitally: %s", name, _REASON)


def mark(model: nn.Module, names: list[str]) -> None:
    """Mark the parameters of ``model`` with these names as idle."""
    met: dict[str, DigitalProduct] = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        if isinstance(owner, NO_PRODUCT):
            continue
        before = owner.__dict__.setdefault("_analog_idle", Idle((), met))
        owner.__dict__["_analog_idle"] = Idle((*before.names, (attribute, name)), met)
        model.__dict__["_analog_met"] = met


def is_idle(module: nn.Module) -> bool:
    """Whether ``module`` itself holds such a parameter."""
    return "_analog_idle" in module.__dict__


def idle(module: nn.Module) -> Iterator[tuple[str, Tensor, Idle]]:
    """Such parameters in ``module`` and in what it holds, by name."""
    for inside in module.modules():
        found: Idle | None = inside.__dict__.get("_analog_idle")
        for attribute, name in () if found is None else found.names:
            tensor = inside._parameters.get(attribute)
            if tensor is not None and found is not None:
                yield name, tensor, found
