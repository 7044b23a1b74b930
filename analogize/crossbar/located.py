"""What the analog regions of a model are called, wherever their parts sit in it."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.region import Region
from analogize.model.parts import is_wrapper, parts, place_of, unwrapped


class Located(NamedTuple):
    """An analog operator, and what it is called in the model that was asked for.

    Attributes:
        op: the operator.
        region: what it stands for, with the names that this model gives.
        array: its array's name there, from which the seeds of a chip derive.
    """

    op: AnalogOp
    region: Region
    array: str


def located(model: nn.Module) -> tuple[Located, ...]:
    """Every analog operator of ``model`` once, part after part.

    The names of a part's regions follow its path (``backbone.conv1``), so that two parts with equal
    names inside are told apart and get noise of their own. A mere wrapper changes neither names nor
    chips: the regions of a single part that holds every parameter keep the names they had by
    themselves.
    """
    model = unwrapped(model)
    places = parts(model)
    alone = is_wrapper(model, places)
    paths = {} if alone else {id(m): name for name, m in model.named_modules()}
    found: list[Located] = []
    for number, op in enumerate(operators(model)):
        prefix = "" if alone else place_of(paths[id(op)], places)
        found.append(Located(op, op.region.within(prefix, number), prefix + op.array.name))
    return tuple(found)


def learned_ranges(model: nn.Module) -> dict[str, nn.Parameter]:
    """The converters' ranges that are learned, by their names in ``model``; for an optimizer.

    They are parameters like any other, so that an optimizer of all parameters trains them. One of
    their own gives them another learning rate, or no weight decay::

        ranges = learned_ranges(analog)
        rest = [p for name, p in analog.named_parameters() if name not in ranges]
        torch.optim.AdamW([{"params": rest}, {"params": ranges.values(), "weight_decay": 0.0}])
    """
    ends = {
        id(converter.range)
        for op in operators(model)
        for converter in (op.dac, op.adc)
        if converter.learning is not None
    }
    return {name: p for name, p in model.named_parameters() if id(p) in ends}
