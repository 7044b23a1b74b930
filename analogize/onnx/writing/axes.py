"""Which dimensions of the inputs an exported graph leaves free, and what they are called.

Torch's exporter finds by itself which free dimensions are equal, and which others follow from them;
it calls them by symbols of its own, which are replaced by the names given here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from analogize.errors import ExportError
from analogize.model.calls import Call
from analogize.onnx.writing import names

BATCH = "batch"
DynamicAxes = Mapping[str, Mapping[int, str]]
# The free axes of every tensor by its name, with the name of each axis.
Free = dict[str, dict[int, str]]


def free_axes(module: nn.Module, call: Call, dynamic_batch: bool, asked: DynamicAxes) -> Free:
    """The free axes of every input.

    Args:
        module: the model.
        call: example inputs.
        dynamic_batch: whether the first dimension of all of them is free.
        asked: further ones by argument name; negative axes count from the end.

    Raises:
        ExportError: an argument or axis that there is not, or a name that is none.
    """
    found: Free = {}
    for name, value in names.named_tensors(module, call):
        found[name] = {0: BATCH} if dynamic_batch and value.ndim else {}
        for axis, label in asked.get(name, {}).items():
            if not -value.ndim <= axis < value.ndim:
                raise ExportError(
                    f"dynamic_axes: '{name}' has {value.ndim} axes, and {axis} is none of them"
                )
            if not isinstance(label, str) or not label.isidentifier():
                raise ExportError(
                    f"dynamic_axes: axis {axis} of '{name}' is called {label!r}; a name has "
                    "letters, digits and underscores"
                )
            found[name][axis % value.ndim] = label
    unknown = sorted(set(asked) - set(found))
    if unknown:
        raise ExportError(
            f"dynamic_axes: the model has no tensor argument '{unknown[0]}'; it has "
            f"{', '.join(found)}"
        )
    return found


def made_free(
    module: nn.Module, call: Call, free: Free
) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """Arguments whose free axes have no size of 1, and what torch.export wants to know of them.

    torch.export takes a dimension of size 1 for a constant.
    """
    longer = names.mapped(module, call, lambda name, x: _longer(x, free[name]))
    found = {label for axes in free.values() for label in axes.values()}
    # One dimension is the batch and no more; of several torch finds the relations.
    kind = torch.export.Dim(BATCH, min=1) if found == {BATCH} else torch.export.Dim.DYNAMIC
    args, kwargs = names.mapped(
        module,
        Call(*longer),
        lambda name, _: dict.fromkeys(free[name], kind) or None,
        lambda _: None,
    )
    return longer, dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def symbols(inputs: Sequence[ir.Value], own: Sequence[str], free: Free) -> dict[str, str]:
    """The name of every free dimension by the exporter's symbol.

    Args:
        inputs: of the graph.
        own: the arguments they are, in order; where torch made more of them, none is known, and
            every first dimension is the batch.
        free: the axes that are free.
    """
    known = len(own) == len(inputs)
    found: dict[str, str] = {}
    for position, value in enumerate(inputs):
        axes = free[own[position]] if known else {0: BATCH}
        for axis, label in axes.items():
            size = value.shape[axis] if value.shape is not None and value.shape.rank() else None
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                found.setdefault(size.value, label)
    return found


def _longer(value: Tensor, axes: Mapping[int, str]) -> Tensor:
    for axis in axes:
        if value.shape[axis] == 1:
            value = torch.cat([value, value], axis)
    return value
