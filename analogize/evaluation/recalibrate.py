"""Re-estimate BatchNorm's statistics on a programmed chip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from analogize.errors import CalibrationError
from analogize.model.calls import batch_call, device_of


def recalibrate(model: nn.Module, data: Iterable[Any]) -> int:
    """Re-estimate every BatchNorm's running statistics from batches without labels, in place.

    Noise on the weights shifts and widens what reaches each BatchNorm, and statistics taken during
    training no longer fit one chip. A deployment can measure them on the chip itself: it needs a
    few unlabelled batches and no gradient. The new statistics are plain averages over ``data``;
    weights stay as they are, so the programmed chip stays valid.

    Args:
        model: a model with BatchNorm. A rewritten one runs on its programmed chip; where none is
            programmed it draws fresh noise, which averages the statistics over noise.
        data: batches: inputs, or (inputs, targets, ...), of which only the inputs are used.

    Returns:
        How many BatchNorm layers were re-estimated.

    Raises:
        CalibrationError: the model has no BatchNorm with running statistics, the data hold no
            batch, or lead to statistics that are not finite. The old statistics are kept then.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise CalibrationError(
            f"{type(model).__name__} has no BatchNorm layer with running statistics, so there is "
            "nothing to recalibrate"
        )
    kept = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    try:
        _estimate(model, norms, data)
    except BaseException:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    return len(norms)


@torch.no_grad()
def _estimate(model: nn.Module, norms: list[_BatchNorm], data: Iterable[Any]) -> None:
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    device, batches = device_of(model), 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            # Momentum None is the plain average over all batches; only these layers train.
            norm.momentum = None
            norm.train()
        for batch in data:
            batch_call(batch).to(device)(model)
            batches += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    if batches == 0:
        raise CalibrationError("the data hold no batch; recalibrate() needs at least one")
    if not all(bool(torch.isfinite(b).all()) for norm in norms for b in norm.buffers()):
        raise CalibrationError("the data lead to BatchNorm statistics that are NaN or infinite")
