"""Weights that accelerate keeps elsewhere, and brings in for each call of their module."""

from __future__ import annotations

from itertools import chain

from torch import nn

from analogize.errors import OffloadError

WAY_OUT = (
    "accelerate keeps it elsewhere and brings it in for a call of its module alone: do this before "
    "cpu_offload() or dispatch_model(), or after "
    "accelerate.hooks.remove_hook_from_module(model, recurse=True)"
)


def refuse_offloaded(model: nn.Module) -> None:
    """Refuse to work on a model whose weights are not in place.

    Raises:
        OffloadError: a parameter or buffer is offloaded; the message names the first.
    """
    for path, module in model.named_modules():
        if not hasattr(module, "_hf_hook"):
            continue
        own = chain(module._parameters.items(), module._buffers.items())
        for name, tensor in own:
            if tensor is not None and tensor.is_meta:
                raise OffloadError(f"'{f'{path}.{name}'.lstrip('.')}' is offloaded: {WAY_OUT}")
