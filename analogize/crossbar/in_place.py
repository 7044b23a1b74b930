"""Before every call: weight and ranges are there, and are those that were looked at last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor, nn

from analogize.crossbar.signature import from_tensor
from analogize.crossbar.stale import tell_of_new_weights
from analogize.errors import OffloadError, SavingError
from analogize.model.offloading import WAY_OUT
from analogize.model.one_pass import running_pass

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp


def buffers_of(op: AnalogOp) -> tuple[Tensor, ...]:
    """What a tool may put in place past ``load_state_dict``, as accelerate does."""
    return op.target_digest, op.array.range, op.dac.range, op.adc.range


def require_in_place(op: AnalogOp, x: Tensor, weight: Tensor) -> None:
    """Take in new ranges, and warn of new weights outside of the former ones.

    Raises:
        SavingError: the ranges are those of another target.
        OffloadError: the weight is kept elsewhere.
    """
    if weight.is_meta and not x.is_meta:
        raise OffloadError(f"region '{op.region.name}': its weight is offloaded: {WAY_OUT}")
    # Weights of a chip are compared with those that it was programmed from, and others refused.
    proven = op.array.witness is not None and op.uses_chip
    if not (op.training or proven or _is_seen(op, weight)):
        tell_of_new_weights(op, weight)
    if _are_laid(op):
        return
    _put_back(op, x)
    if _are_laid(op):
        return
    if op.target_digest.is_meta:  # a model that was made without values
        return
    if from_tensor(op.target_digest) != op.digest:
        raise SavingError(
            f"region '{op.region.name}': its ranges were saved for another target; rewrite the "
            "model for that one and load them again"
        )
    now = buffers_of(op)
    if all(a is b for a, b in zip(now[1:], op.laid[1:], strict=True)):
        op.laid = now
        return
    for part in (op.array, op.dac, op.adc):
        part.refresh()
    op.refresh()


def _are_laid(op: AnalogOp) -> bool:
    digest, *ranges = op.laid
    if op._buffers["target_digest"] is not digest:
        return False
    # Every call asks, and nn.Module looks these up slowly.
    parts: dict[str, Any] = op._modules
    for name, kept in zip(("array", "dac", "adc"), ranges, strict=True):
        part = parts[name]
        if part._buffers.get("range") is not kept and part._parameters.get("range") is not kept:
            return False
    return True


def _put_back(op: AnalogOp, x: Tensor) -> None:
    """Take back ranges that accelerate has offloaded: their modules are never called themselves.

    So are those that are parameters, since they are learned. They take no memory to speak of.
    """
    for part, kept in zip((op.array, op.dac, op.adc), op.laid[1:], strict=True):
        if not part.range.is_meta or kept.is_meta or x.is_meta:
            continue
        if kept.device != x.device:
            learned = isinstance(kept, nn.Parameter)
            there = kept.detach().to(x.device)
            kept = nn.Parameter(there, kept.requires_grad) if learned else there
        part.range = kept


def _is_seen(op: AnalogOp, weight: Tensor) -> bool:
    """Whether this pass used ``weight`` before, as a recurrent layer's later steps do."""
    this = running_pass()
    if this is None or this.is_over:
        return False
    found: Callable[[], Tensor | None] | None = this.kept.get(op)
    if found is not None and found() is weight:
        return True
    # A weight that is offloaded between calls must not be held.
    this.kept[op] = ref(weight)
    return False
