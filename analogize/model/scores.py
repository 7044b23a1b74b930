"""Outputs and labels as Hugging Face's models and data collators have them.

Outputs are an object with ``logits``; a position that is not to be scored is labelled -100; and the
classes of a token classifier stand last, where torch's losses look for them second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

IGNORED: Final = -100


def logits_of(outputs: Any) -> Any:
    """The ``logits`` of outputs that have such a tensor; other outputs as they are."""
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if found is None:
        found = getattr(outputs, "logits", None)
    return found if isinstance(found, Tensor) else outputs


def scored(outputs: Any, labels: Any) -> tuple[Any, Any]:
    """Scores with classes second, and labels, of outputs that have ``logits``; others as they are.

    Args:
        outputs: what the model returned; logits (N, C) or (N, ..., C).
        labels: class indices (N) or (N, ...); positions of -100 are left out.

    Returns:
        Scores (N, C) and labels (N): one row a position.
    """
    logits = logits_of(outputs)
    if logits is not outputs and labels is None and logits.ndim > 2:
        return logits.flatten(0, -2), None
    if logits is outputs or not isinstance(labels, Tensor) or labels.is_floating_point():
        return logits, labels
    if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape:
        return logits, labels
    kept = labels != IGNORED
    return logits[kept], labels[kept]
