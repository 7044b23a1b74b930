"""The loss of distillation with noise injection, as a plain function."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from analogize.errors import TrainingError


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor | None,
    alpha: float = 1.0,
    temperature: float = 6.0,
    hard: float = 1.0,
) -> Tensor:
    """Cross-entropy with the labels plus alpha T^2 cross-entropy with the teacher's soft outputs.

    L = H(softmax(z_S), y) + alpha T^2 H(softmax(z_S / T), softmax(z_T / T)), averaged over samples
    and positions: equations 9 and 10 of Noisy Machines, section 5.1, without its last term, which
    is the optimizer's ``weight_decay``. T^2 keeps the soft term's gradients on the hard one's
    scale. ``alpha=0`` is plain noise injection, and needs no teacher. No gradient flows to the
    teacher.

    Args:
        student_logits: (N, C) or (N, C, ...) scores.
        teacher_logits: the same shape; None where ``alpha`` is 0.
        labels: class indices (N) or (N, ...), int64; None where ``hard`` is 0.
        alpha: weight of the soft targets, at least 0.
        temperature: T, above 0; the paper uses 6 and finds 2 to 10 to be good.
        hard: weight of the labels' term, 1 in the paper; 0 learns from the teacher alone.

    Returns:
        The loss, a 0-d tensor.

    Raises:
        TrainingError: shapes do not fit, labels are no class indices, or a setting is out of range.
    """
    check_settings(alpha, temperature, hard)
    first = student_logits.new_zeros(())
    if hard:
        if labels is None:
            raise TrainingError("labels are None; the first term needs them, or hard=0")
        _check_labels(student_logits, labels)
        first = F.cross_entropy(student_logits, labels)
        first = first if hard == 1 else hard * first
    if alpha == 0:
        return first
    if teacher_logits is None:
        raise TrainingError(
            f"alpha = {alpha:g} weighs the teacher's outputs and there are none: pass a teacher, "
            "or alpha=0 for plain noise injection"
        )
    if student_logits.shape != teacher_logits.shape:
        raise TrainingError(
            f"the student's outputs have shape {tuple(student_logits.shape)} and the teacher's "
            f"{tuple(teacher_logits.shape)}: both must score the same classes in the same layout"
        )
    target = F.softmax(teacher_logits.detach() / temperature, dim=1)
    soft = F.cross_entropy(student_logits / temperature, target, reduction="none").mean()
    return first + alpha * temperature**2 * soft


def check_settings(alpha: float, temperature: float, hard: float = 1.0) -> None:
    """Refuse weights below 0 and a temperature that is not above 0.

    Raises:
        TrainingError: one is out of range, or no number.
    """
    for name, weight in (("alpha", alpha), ("hard", hard)):
        if not 0 <= weight < float("inf"):
            raise TrainingError(f"{name} is {weight!r}; it must be a finite number of at least 0")
    if not 0 < temperature < float("inf"):
        raise TrainingError(f"temperature is {temperature!r}; it must be a finite number above 0")


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels before a device-side assertion does, which would end the process."""
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        raise TrainingError(
            f"the student returned {_shape(logits)}, and the loss of equation 10 needs scores "
            "(N, classes, ...): pass a loss of your own for models that are not classifiers"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected or labels.is_floating_point():
        raise TrainingError(
            f"labels are {_shape(labels)}; scores of shape {tuple(logits.shape)} need class "
            f"indices (int64) of shape {expected}"
        )
    low, high = labels.aminmax()
    classes = logits.shape[1]
    if bool((low < 0) | (high >= classes)):
        raise TrainingError(
            f"labels run from {int(low)} to {int(high)}, and the student scores {classes} classes: "
            f"labels must lie in 0 to {classes - 1}"
        )


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"a tensor of shape {tuple(value.shape)} and type {kind}"
    return f"a {type(value).__name__}"
