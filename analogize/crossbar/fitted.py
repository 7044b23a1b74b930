"""What is digital and was fitted on one chip: another one has other errors, and is told of.

A digital side belongs to what its own array held, and keeps a digest of that. BatchNorm's
statistics come from all of the chip, and its layers are torch's: a mark on the layer says where
they are from, for as long as they are the ones that were found.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.conductances import Drawn
from analogize.crossbar.located import Located
from analogize.crossbar.ops import operators
from analogize.crossbar.origin import digest_of
from analogize.model.parts import unwrapped

logger = logging.getLogger("analogize")

MARK = "_analogize_fitted"


@dataclass
class Fitted:
    """Where a layer's running statistics are from.

    Attributes:
        chip: digests of what the arrays held.
        mean: the running mean that was found.
        is_told: whether a warning said that another chip is programmed now.
    """

    chip: frozenset[str]
    mean: Tensor
    is_told: bool = False


def chip_of(model: nn.Module) -> frozenset[str]:
    """Digests of what the arrays hold that the model's next call multiplies by."""
    held = [op.array.origin for op in operators(model) if op.uses_chip]
    return frozenset(digest_of(origin) for origin in held if origin is not None)


def mark(norm: nn.Module, chip: Collection[str]) -> None:
    """Say that the running statistics of ``norm`` were found on ``chip``, or on none if empty."""
    norm.__dict__.pop(MARK, None)
    mean = getattr(norm, "running_mean", None)
    if chip and isinstance(mean, Tensor):
        norm.__dict__[MARK] = Fitted(frozenset(chip), mean.detach().clone())


def marked(model: nn.Module) -> Iterator[tuple[str, Fitted]]:
    """Path and mark of every BatchNorm layer whose statistics are still those of a chip."""
    for path, module in model.named_modules():
        found = module.__dict__.get(MARK)
        if not isinstance(found, Fitted) or not isinstance(module, _BatchNorm):
            continue
        mean = module.running_mean
        # Training, and loading others, makes them the statistics of no chip.
        if mean is not None and not mean.is_meta and torch.equal(mean, found.mean.to(mean)):
            yield path, found


def tell_of_another_chip(
    model: nn.Module, held: Iterable[tuple[Located, Drawn | ArrayData | None]]
) -> None:
    """Warn, once for each, of what was fitted on another chip than this one.

    Args:
        model: that the chip is programmed on.
        held: its operators, each with the origin of its part of the chip.
    """
    sides = [(found, origin) for found, origin in held if origin is not None]
    norms = [(path, found) for path, found in marked(model) if not found.is_told]
    fitted = [found.op.side is not None and found.op.side.made_on is not None for found, _ in sides]
    if not norms and not any(fitted):
        return
    chip = {found.op: digest_of(origin) for found, origin in sides}
    told = []
    for found, _ in sides:
        side = found.op.side
        if side is None or side.made_on is None or side.is_told:
            continue
        if side.made_on != chip[found.op]:
            side.is_told = True
            told.append(f"'{found.region.name}'")
    for path, found_on in norms:
        if not found_on.chip <= set(chip.values()):
            found_on.is_told = True
            told.append(f"'{path}'")
    if told:
        logger.warning(
            "what recalibrate() or adapt() fitted on one chip stays beside the arrays of another "
            "(%s): call it again on this chip, or go back to the model as it was before",
            ", ".join(told[:3]) + (", ..." if len(told) > 3 else ""),
        )


def fits(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What of ``model`` was fitted on a chip, for its file: digests of that by path."""
    model = unwrapped(model)
    paths = {module: path for path, module in model.named_modules()}
    sides = {
        paths[op]: (op.side.made_on,)
        for op in operators(model)
        if op.side is not None and op.side.made_on is not None
    }
    return sides | {path: tuple(sorted(found.chip)) for path, found in marked(model)}


def take_fits(model: nn.Module, told: Mapping[str, Collection[str]]) -> None:
    """Say again what ``fits`` said of the model that was saved, whose state is loaded by now."""
    model = unwrapped(model)
    for path, chip in told.items():
        module = model.get_submodule(path)
        side = getattr(module, "side", None)
        if side is None:
            mark(module, chip)
        else:
            (side.made_on,) = chip
