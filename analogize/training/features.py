"""Feature distillation: the student's operators put out what the teacher's do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.located import located
from analogize.errors import TrainingError


def shared_regions(student: nn.Module, teacher: nn.Module | None) -> frozenset[str]:
    """Names of the regions that both models have.

    Raises:
        TrainingError: they share none.
    """
    found = frozenset[str]() if teacher is None else frozenset(_names(teacher))
    shared = found & frozenset(_names(student))
    if not shared:
        kind = "there is none" if teacher is None else f"{type(teacher).__name__} has none of them"
        raise TrainingError(
            "features are matched region by region, and the student's regions need the same ones "
            f"in the teacher: {kind}. Use a rewritten teacher, such as the clipped clean model, or "
            "features=0"
        )
    return shared


@contextmanager
def recording(model: nn.Module, regions: frozenset[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block the dict gets what each of ``regions`` puts out, in its last call."""
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        return lambda _op, _args, y: seen.__setitem__(name, y)

    chosen = [found for found in located(model) if found.region.name in regions] if regions else []
    handles = [found.op.register_forward_hook(keeper(found.region.name)) for found in chosen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def feature_loss(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Mean over regions of the squared error, as a share of the teacher's mean square."""
    losses = []
    for name, goal in wanted.items():
        goal = goal.detach().float()
        size = goal.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
        losses.append((found[name].float() - goal).square().mean() / size)
    return torch.stack(losses).mean()


def _names(model: nn.Module) -> list[str]:
    return [found.region.name for found in located(model)]
