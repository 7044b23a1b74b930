"""The user's and the target's choices of what stays digital, and the records they lead to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from analogize.errors import PassError
from analogize.passes.request import DigitalChoice
from analogize.targets.overrides import names
from analogize.targets.spec import Target

# Modules whose parameters scale or look up, but never enter a matrix product.
NO_PRODUCT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)
ACTIVATIONS = "both operands are activations"
DISTANCE = "a distance to stored vectors, which no array computes"
NEEDS_A_RULE = "a graph shows it as one operator; only the interception takes it apart"


@dataclass(frozen=True)
class Selected:
    """This product becomes the analog region ``name``, holding the parameter ``weight``."""

    name: str
    operator: str
    weight: str


@dataclass(frozen=True)
class Declined:
    """This product stays digital, for ``reason``; ``chosen`` if the user or the target said so."""

    name: str
    operator: str
    reason: str
    chosen: bool = False


class Choices:
    """Decides which of the products that could become analog do, and remembers what was used."""

    def __init__(self, target: Target, digital: Sequence[DigitalChoice]) -> None:
        self.target = target
        self.choices = (*target.digital.names, *digital)
        self._used: set[int] = set()
        self._regions: list[str] = []

    def decide(self, record: Selected, owners: Sequence[nn.Module]) -> Selected | Declined:
        """The record itself, or why it stays digital; ``owners`` enclose the weight."""
        self._regions.append(record.name)
        for index, choice in enumerate(self.choices):
            if _matches(choice, record, owners):
                self._used.add(index)
                reason = f"kept digital: {_say(choice)}"
                return Declined(record.name, record.operator, reason, chosen=True)
        if record.operator.removeprefix("batched_") in self.target.digital.operators:
            reason = f"target '{self.target.name}' keeps {record.operator} digital"
            return Declined(record.name, record.operator, reason, chosen=True)
        return record

    def require_used(self) -> None:
        """Refuse a choice of the user's, or an override, that no region matched.

        What the target keeps digital may match none.

        Raises:
            PassError: with near names.
        """
        for index in range(len(self.target.digital.names), len(self.choices)):
            if index not in self._used:
                _refuse_unused(
                    f"digital: {self.choices[index]!r}", self.choices[index], self._regions
                )
        for number, override in enumerate(self.target.overrides):
            if not any(names(override, region) for region in self._regions):
                patterns = ", ".join(map(repr, override.regions))
                said = f"target '{self.target.name}', overrides.{number}: {patterns}"
                _refuse_unused(said, override.regions[0], self._regions)


def unmappable(weight: Tensor) -> str | None:
    """Why no array can hold ``weight``, whatever its values, or None."""
    if weight.layout is not torch.strided:
        return (
            f"its weight is {str(weight.layout).removeprefix('torch.')}; an array holds dense ones"
        )
    if not weight.dtype.is_floating_point:
        return (
            f"its weight is {str(weight.dtype).removeprefix('torch.')}; an array holds real numbers"
        )
    if not weight.numel():
        return f"its weight has no element (shape {tuple(weight.shape)})"
    return None


def enclosing(model: nn.Module, weight: str) -> list[nn.Module]:
    """The modules that hold the parameter ``weight``, innermost first."""
    path, owners = weight, []
    while path:
        path = path.rpartition(".")[0]
        owners.append(model.get_submodule(path))
    return owners


def _matches(choice: DigitalChoice, record: Selected, owners: Sequence[nn.Module]) -> bool:
    if isinstance(choice, str):
        return fnmatchcase(record.name, choice)
    if isinstance(choice, type):
        return any(isinstance(owner, choice) for owner in owners)
    return bool(choice(record.name, owners[0]))


def _say(choice: DigitalChoice) -> str:
    if isinstance(choice, str):
        return f"matches '{choice}'"
    return f"matches {getattr(choice, '__name__', repr(choice))}"


def _refuse_unused(said: str, choice: DigitalChoice, names: list[str]) -> None:
    near = difflib.get_close_matches(choice, names, 3) if isinstance(choice, str) else []
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise PassError(
        f"{said} matches no region; {hint}the regions are "
        f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    )
