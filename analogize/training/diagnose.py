"""Where a model's activations first stop being finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from analogize.crossbar.ops import AnalogOp
from analogize.model.calls import Call


@torch.no_grad()
def first_non_finite(model: nn.Module, call: Call) -> str:
    """Run ``model`` once more and name what first turned NaN or infinite.

    Args:
        model: any module; its mode stays as it is.
        call: the arguments that led to a loss that is not finite.

    Returns:
        A phrase for an error message: the inputs, a layer (and whether its weights are to blame),
        or that everything is finite up to the outputs.
    """
    if not all(map(_is_finite, _tensors([call.args, dict(call.kwargs)]))):
        return "the batch's inputs hold NaN or infinite values"
    names = {module: name for name, module in model.named_modules() if name}
    found: list[nn.Module] = []

    def watch(module: nn.Module, _args: Any, output: Any) -> None:
        if not found and module in names and not all(map(_is_finite, _tensors(output))):
            found.append(module)

    # One hook for all: modules that a graph dissolved refuse hooks of their own.
    handle = register_module_forward_hook(watch)
    try:
        call(model)
    finally:
        handle.remove()
    broken = [n for n, p in model.named_parameters() if not _is_finite(p)]
    if not found:
        if broken:
            return f"parameter '{broken[0]}' holds NaN or infinite values"
        return "every layer's activations are finite, so the loss itself overflows"
    module = found[0]
    layer = module.region.name if isinstance(module, AnalogOp) else names[module]
    weights = {f"{layer}.weight", f"{layer}.bias"} & set(broken)
    reason = f", whose '{min(weights)}' holds NaN or infinite values" if weights else ""
    return f"the first non-finite activation leaves layer '{layer}'{reason}"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
