"""What the caller of the pipeline knows beyond the target: example inputs and digital choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from analogize.model.calls import Call

DigitalChoice = str | type[nn.Module] | Callable[[str, nn.Module | None], bool]


@dataclass(frozen=True)
class Request:
    """Travels in ``graph_module.meta["request"]`` while the pipeline runs.

    Attributes:
        example: a call the model accepts, or None.
        expected: the original model's output for it in eval mode, or None.
        digital: the user's choices of what stays digital: region names or globs, module types, or
            predicates of (region name, owning module).
    """

    example: Call | None = None
    expected: Any = None
    digital: Sequence[DigitalChoice] = ()


def request_of(module: fx.GraphModule) -> Request:
    """The request that travels with ``module``; an empty one if there is none."""
    found = module.meta.get("request")
    return found if isinstance(found, Request) else Request()
