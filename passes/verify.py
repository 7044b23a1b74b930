"""Check the result: nothing selected was left over, and the digital function is preserved.

With example inputs, the rewritten model runs with every stage bypassed and must return what the
original returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from analogize.crossbar.ops import AnalogOp, bypassed
from analogize.errors import PassError
from analogize.model.counting import eval_mode
from analogize.passes.choice import Selected
from analogize.passes.request import request_of
from analogize.targets.spec import Target

# Splitting a bias off changes the order of additions: a few units in the last place a layer.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def verify(module: fx.GraphModule, target: Target) -> int:
    """Check; returns 0, for nothing is rewritten.

    Raises:
        PassError: a selected product was not lowered, or outputs differ from the original's.
    """
    for node in module.graph.nodes:
        lowered = node.op == "call_module" and isinstance(
            module.get_submodule(str(node.target)), AnalogOp
        )
        if isinstance(node.meta.get("analog"), Selected) and not lowered:
            raise PassError(f"node '{node.name}' was selected but not lowered")
    request = request_of(module)
    if request.example is None:
        return 0
    module.recompile()
    with eval_mode(module), torch.no_grad(), bypassed(module):
        actual = request.example(module)
    require_equal(actual, request.expected)
    return 0


def require_equal(actual: Any, expected: Any) -> None:
    """Compare two nested outputs leaf by leaf, dataclasses included.

    Whole numbers may come from a comparison of rounded values; of these only the shape is compared.

    Raises:
        PassError: a tensor differs by more than rounding, or the structures differ.
    """
    mine, theirs = _leaves(actual), _leaves(expected)
    if len(mine) != len(theirs):
        raise PassError(f"the rewritten model returns {len(mine)} values, not {len(theirs)}")
    for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            raise PassError(f"output {index} is a {type(a).__name__}, not a {type(b).__name__}")
        if isinstance(b, Tensor):
            _require_equal_tensors(index, a, b)


def _leaves(value: Any) -> list[Any]:
    """Everything in nested containers, and in objects that torch does not know as such."""
    found: list[Any] = []
    for leaf in tree_leaves(value):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            found += _leaves([getattr(leaf, f.name) for f in fields(leaf)])
        elif isinstance(leaf, Mapping):
            found += _leaves(list(leaf.values()))
        else:
            found.append(leaf)
    return found


def _require_equal_tensors(index: int, a: Tensor, b: Tensor) -> None:
    a, b = a.detach(), b.detach()
    if a.shape != b.shape:
        raise PassError(f"output {index}: shape {tuple(a.shape)}, not {tuple(b.shape)}")
    if a.dtype != b.dtype:
        raise PassError(f"output {index}: {a.dtype}, not {b.dtype}")
    if b.is_meta or not b.numel() or not (b.is_floating_point() or b.is_complex()):
        return
    # What both have is equal, infinities included; what only one has is not.
    same = (a == b) | (a.isnan() & b.isnan())
    scale = b.abs().where(b.isfinite(), 0).max().clamp(min=torch.finfo(b.dtype).tiny)
    error = float(((a - b).abs().where(~same, 0).max() / scale).float())
    if not error <= _TOLERANCE.get(b.abs().dtype, 1e-4):
        raise PassError(
            f"output {index} of the rewritten model differs from the original's by "
            f"{error:.1e} of its largest value, with every analog stage bypassed; the "
            "captured graph does not compute the model's function"
        )
