"""One model of a public library, and how to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Case:
    """A model and how to call it.

    Attributes:
        model: with random weights.
        inputs: positional or named arguments for a batch size.
        generates: whether ``generate()`` is compared as well.
    """

    model: nn.Module
    inputs: Callable[[int], Any]
    generates: bool = False
