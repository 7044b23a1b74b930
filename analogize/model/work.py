"""The work of every ATen operator that is a product: its operands, its multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _matrix(a: Tensor, b: Tensor) -> int:
    return a.numel() * b.shape[-1]


def _convolution(x: Tensor, w: Tensor, bias: Any, *rest: Any, out: Tensor) -> int:
    transposed = bool(rest[3])
    positions = prod((x if transposed else out).shape[2:]) * x.shape[0]
    macs: int = positions * w.numel()
    return macs


def _recurrent(*args: Any, out: Any) -> int:
    steps, batch = args[0].shape[0], args[0].shape[1]
    macs: int = steps * batch * sum(w.numel() for w in args[1:3])
    return macs


def _trilinear(a: Tensor, b: Tensor, c: Tensor, *rest: Any, out: Tensor) -> int:
    macs: int = out.shape[0] * b.numel()
    return macs


# ATen operator -> (positions of the operands, multiply-accumulates of a call).
_PRODUCTS: dict[Any, tuple[tuple[int, ...], Callable[..., int]]] = {
    aten.mm.default: ((0, 1), lambda a, b, out: _matrix(a, b)),
    aten.bmm.default: ((0, 1), lambda a, b, out: _matrix(a, b)),
    aten.mv.default: ((0, 1), lambda a, b, out: a.numel()),
    aten.dot.default: ((0, 1), lambda a, b, out: a.numel()),
    aten.vdot.default: ((0, 1), lambda a, b, out: a.numel()),
    aten.addmm.default: ((1, 2), lambda c, a, b, out, **_: _matrix(a, b)),
    aten.addmv.default: ((1, 2), lambda c, a, b, out, **_: a.numel()),
    aten.baddbmm.default: ((1, 2), lambda c, a, b, out, **_: _matrix(a, b)),
    aten.convolution.default: ((0, 1), _convolution),
    aten.mkldnn_rnn_layer.default: ((1, 2), _recurrent),
    aten._trilinear.default: ((1,), _trilinear),
    aten._grouped_mm.default: ((0, 1), lambda a, b, *_, out, **__: a.shape[0] * prod(b.shape[-2:])),
    aten.linear.default: ((0, 1), lambda x, w, *_, out: x.numel() * w.shape[0]),
    aten._addmm_activation.default: ((1, 2), lambda c, a, b, out, **_: _matrix(a, b)),
    aten.addbmm.default: ((1, 2), lambda c, a, b, out, **_: _matrix(a, b)),
    aten.conv_tbc.default: ((0, 1), lambda x, w, *_, out: prod(out.shape[:2]) * w.numel()),
    aten._sparse_addmm.default: ((1, 2), lambda c, a, b, out, **_: a._nnz() * b.shape[-1]),
}


def products() -> dict[Any, tuple[tuple[int, ...], Callable[..., int]]]:
    """The table, with the operators of libraries that are loaded."""
    found = dict(_PRODUCTS)
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        found[torch.ops.torchvision.deform_conv2d.default] = (
            (1,),
            lambda x, w, *_, out: out.numel() * prod(w.shape[1:]),
        )
    return found
