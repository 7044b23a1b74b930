"""The teacher of a distillation: a clean model, neither trained nor saved with the student."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.chip import noise_mode
from analogize.crossbar.ops import operators
from analogize.errors import TrainingError
from analogize.model.calls import Call, device_of
from analogize.model.sharding import whole
from analogize.training.features import recording


class Teacher:
    """What the student learns from, and how it is asked.

    No ``nn.Module``, so that whoever holds it neither trains, saves nor wraps the model.

    Args:
        model: the teacher, or None: then it has nothing to say.
        matched: the regions whose outputs are wanted beside the model's own.
    """

    def __init__(self, model: nn.Module | None, matched: frozenset[str] = frozenset()) -> None:
        self.model, self.matched = model, matched

    @cached_property
    def digest(self) -> str | None:
        """Of the model's parameters, without their names, which wrappers change; None without one.

        Without buffers: ranges that were calibrated on shuffled data differ between processes.
        """
        if self.model is None:
            return None
        digest = hashlib.blake2b(digest_size=8)
        for parameter in self.model.parameters():
            held = whole(parameter).detach().cpu().contiguous()
            digest.update(f"{held.dtype} {tuple(held.shape)}".encode())
            digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> None:
        """Move the model."""
        if self.model is not None:
            self.model.to(device)

    def answer(self, call: Call) -> tuple[Any, dict[str, Tensor]]:
        """Outputs and features in eval mode, without noise, detached; nothing without a model."""
        model = self.model
        if model is None:
            return None, {}
        modes = [(m, m.training) for m in model.modules()]
        try:
            with torch.no_grad(), clean(model), recording(model, self.matched) as features:
                return call(model.eval()), features
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def clean(model: nn.Module) -> Iterator[None]:
    """Without weight noise, where the model has any."""
    with noise_mode(model, "off") if operators(model) else nullcontext():
        yield


def require_pair(student: nn.Module, teacher: nn.Module | None, needed: bool) -> None:
    """Refuse a teacher that is missing, that would change with the student, or that knows nothing.

    Raises:
        TrainingError: one of these.
    """
    if teacher is None:
        if needed:
            raise TrainingError(
                "alpha weighs a teacher's outputs: pass a teacher, or alpha=0 for plain noise "
                "injection"
            )
        return
    own = {id(p) for p in student.parameters()}
    shared = [name for name, p in teacher.named_parameters() if id(p) in own]
    if shared:
        raise TrainingError(
            f"teacher and student share the parameter '{shared[0]}', so the teacher would change "
            "with the student: rewrite a copy (analogize() without inplace) or copy.deepcopy it"
        )
    if device_of(teacher).type == "meta":
        raise TrainingError("the teacher has no weights (device 'meta'); load them first")
