"""Which analog operator the running digital product stands for.

The census (counting.py) asks, and operators that compute their digital product tell: neither knows
the other. Every thread and every asynchronous task has a stack of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Place(Protocol):
    """What is known of an analog operator: its name, and its position in the model."""

    @property
    def name(self) -> str:
        """The region's name."""

    @property
    def index(self) -> int:
        """The region's position among the model's regions."""


_running: ContextVar[tuple[Place, ...]] = ContextVar("running", default=())


@contextmanager
def standing_for(place: Place) -> Iterator[None]:
    """Within the block, digital products are those of the operator at ``place``."""
    token = _running.set((*_running.get(), place))
    try:
        yield
    finally:
        _running.reset(token)


def innermost() -> Place | None:
    """The innermost operator whose digital product is running, or None."""
    stack = _running.get()
    return stack[-1] if stack else None
