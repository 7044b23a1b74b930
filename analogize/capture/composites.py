"""Operators that hold products with stored weights, as compositions of linear and convolution.

A rule is called in place of the function it belongs to, with ``stored`` as its first argument: a
predicate that says which tensors are weights. It computes the same through supported products
(``F.linear``, ``F.convN``, ``F.conv_transposeN``, ``batched_linear``), or returns
``NotImplemented`` where it has nothing to say. ``register_operator`` adds one for anyone's own
operator::

    @register_operator(my_library.fused_mlp)
    def _(stored, x, w1, w2):
        return F.linear(F.relu(F.linear(x, w1)), w2)
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from analogize.passes.signature import RULES, batched_linear

Stored = Callable[[Any], bool]
Rule = Callable[..., Any]


def register_operator(*functions: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Register a rule for functions that torch dispatches (``torch.overrides``).

    A Python function of one's own is dispatched once it is wrapped by
    ``torch.overrides.wrap_torch_function``.
    """

    def register(rule: Rule) -> Rule:
        for function in functions:
            RULES[function] = rule
        return rule

    return register


@register_operator(
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.bmm,
    torch.Tensor.bmm,
    torch.mv,
    torch.Tensor.mv,
    torch.dot,
    torch.Tensor.dot,
    torch.vdot,
    torch.Tensor.vdot,
)
def matmul(stored: Stored, a: Tensor, b: Tensor) -> Any:
    """A matrix product with the weight on either side."""
    if stored(a) == stored(b):
        return NotImplemented
    if stored(a):
        return _weight_first(a, b)
    if b.ndim == 1:
        return F.linear(a, b.unsqueeze(0)).squeeze(-1)
    if b.ndim == 2:
        return F.linear(a, b.t())
    x = a if a.ndim > 1 else a.unsqueeze(0)
    if (single := _expanded(b)) is not None:
        product = F.linear(x, single.t())
        batch = torch.broadcast_shapes(x.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
        product = product.expand(*batch, *product.shape[-2:])
    else:
        product = batched_linear(x, b.mT)
    return product if a.ndim > 1 else product.squeeze(-2)


def _expanded(w: Tensor) -> Tensor | None:
    """The one matrix that ``w`` repeats along all its leading dimensions, without copies, or None.

    It is one array, however many rows of a batch see it.
    """
    if any(s and n > 1 for s, n in zip(w.stride()[:-2], w.shape[:-2], strict=True)):
        return None
    return w[(0,) * (w.ndim - 2)]


def _weight_first(w: Tensor, x: Tensor) -> Tensor:
    if w.ndim > 2 and x.ndim > 1 and (single := _expanded(w)) is not None:
        product = F.linear(x.mT, single).mT
        batch = torch.broadcast_shapes(x.shape[:-2], w.shape[:-2])  # type: ignore[no-untyped-call]
        return product.expand(*batch, *product.shape[-2:])
    if x.ndim == 1:
        return F.linear(x, w) if w.ndim < 3 else batched_linear(x.unsqueeze(0), w).squeeze(-2)
    if w.ndim == 1:
        return F.linear(x.mT, w.unsqueeze(0)).squeeze(-1)
    return F.linear(x.mT, w).mT if w.ndim == 2 else batched_linear(x.mT, w).mT


@register_operator(torch.Tensor.__rmatmul__)
def _rmatmul(stored: Stored, b: Tensor, a: Tensor) -> Any:
    return matmul(stored, a, b)


@register_operator(
    torch.addmm,
    torch.Tensor.addmm,
    torch.baddbmm,
    torch.Tensor.baddbmm,
    torch.addmv,
    torch.Tensor.addmv,
)
def _add_product(
    stored: Stored,
    input: Tensor,  # noqa: A002 - torch's own name
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Any:
    product = matmul(stored, a, b)
    if product is NotImplemented:
        return product
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return product + (input if beta == 1 else input * beta)


@register_operator(torch.addbmm, torch.Tensor.addbmm)
def _add_summed_products(
    stored: Stored,
    input: Tensor,  # noqa: A002 - torch's own name
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Any:
    product = matmul(stored, a, b)
    if product is NotImplemented:
        return product
    product = product.sum(0) * alpha
    return product if beta == 0 else product + input * beta


@register_operator(torch.inner, torch.Tensor.inner)
def _inner(stored: Stored, a: Tensor, b: Tensor) -> Any:
    """Sums over the last dimension of both."""
    if not a.ndim or not b.ndim:
        return NotImplemented
    return _tensordot(stored, a, b, ([a.ndim - 1], [b.ndim - 1]))


@register_operator(torch.linalg.multi_dot, torch.chain_matmul)
def _multi_dot(stored: Stored, *matrices: Any) -> Any:
    """From the left, pairs of activations and pairs of weights as they are."""
    if len(matrices) == 1 and isinstance(matrices[0], list | tuple):
        matrices = tuple(matrices[0])
    if all(map(stored, matrices)):
        return NotImplemented
    product = matrices[0]
    for matrix in matrices[1:]:
        product = torch.matmul(product, matrix)
    return product


@register_operator(torch.conv_tbc)
def _conv_tbc(
    stored: Stored,
    input: Tensor,  # noqa: A002 - torch's own name
    weight: Tensor,
    bias: Tensor,
    pad: int = 0,
) -> Any:
    """Time, batch, channels; the kernel's are (time, in, out)."""
    if not stored(weight) or stored(input):
        return NotImplemented
    product = F.conv1d(input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, padding=pad)
    return product.permute(2, 0, 1)


@register_operator(F.linear)
def _linear(
    stored: Stored,
    input: Tensor,  # noqa: A002 - torch's own name
    weight: Tensor,
    bias: Tensor | None = None,
) -> Any:
    """A linear product whose *input* is stored: the other way round."""
    if stored(weight) or not stored(input) or input.ndim != 2 or weight.ndim != 2:
        return NotImplemented
    product = F.linear(weight, input).t()
    return product if bias is None else product + bias


@register_operator(F.bilinear)
def _bilinear(
    stored: Stored, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Any:
    """The first product is the array's; the second is between activations."""
    if not stored(weight):
        return NotImplemented
    outputs, first, second = weight.shape
    matrix = weight.transpose(1, 2).reshape(outputs * second, first)
    half = F.linear(input1, matrix)
    half = half.reshape(*half.shape[:-1], outputs, second)
    product = (half * input2.unsqueeze(-2)).sum(-1)
    return product if bias is None else product + bias


@register_operator(torch.einsum)
def _einsum(stored: Stored, equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    weights = [stored(o) for o in operands]
    if not isinstance(equation, str) or len(operands) != 2 or sum(weights) != 1:
        return NotImplemented
    labels = _labels(equation, operands)
    if labels is None:
        return NotImplemented
    (a, b), out = labels
    if weights[0]:
        return contract(operands[1], operands[0], b, a, out)
    return contract(operands[0], operands[1], a, b, out)


def _labels(equation: str, operands: tuple[Any, ...]) -> tuple[tuple[str, str], str] | None:
    """One letter a dimension for both operands and the result; None where a letter repeats."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = 0
    for index, term in enumerate(terms):
        if "..." in term:
            width = operands[index].ndim - (len(term) - 3)
            widest = max(widest, width)
            terms[index] = term.replace("...", "".join(spare[len(spare) - width :]))
    ellipsis = "".join(spare[len(spare) - widest :]) if widest else ""
    if not arrow:
        once = sorted(c for c in set(terms[0] + terms[1]) if (terms[0] + terms[1]).count(c) == 1)
        out = ellipsis + "".join(c for c in once if c not in ellipsis)
    out = out.replace("...", ellipsis)
    if any(len(set(t)) != len(t) for t in (*terms, out)):
        return None
    return (terms[0], terms[1]), out


def contract(x: Tensor, w: Tensor, x_labels: str, w_labels: str, out: str) -> Any:
    """A contraction as a linear product, batched where both operands share an output label."""
    w, w_labels = _unrepeated(w, w_labels)
    x, x_labels = _summed(x, x_labels, w_labels + out)
    w, w_labels = _summed(w, w_labels, x_labels + out)
    batch = [c for c in w_labels if c in x_labels and c in out]
    inner = [c for c in w_labels if c in x_labels and c not in out]
    rows = [c for c in x_labels if c not in w_labels]
    columns = [c for c in w_labels if c not in x_labels]
    x_size, w_size = (
        dict(zip(x_labels, x.shape, strict=True)),
        dict(zip(w_labels, w.shape, strict=True)),
    )
    if not inner or any(x_size[c] != w_size[c] for c in (*batch, *inner)):
        return NotImplemented
    weight = w.permute([w_labels.index(c) for c in (*batch, *columns, *inner)])
    weight = weight.reshape([w_size[c] for c in batch] + [-1, _size(w_size, inner)])
    data = x.permute([x_labels.index(c) for c in (*batch, *rows, *inner)])
    data = data.reshape([x_size[c] for c in batch] + [_size(x_size, rows), _size(x_size, inner)])
    product = batched_linear(data, weight) if batch else F.linear(data, weight)
    sizes = [x_size[c] for c in (*batch, *rows)] + [w_size[c] for c in columns]
    order = [*batch, *rows, *columns]
    return product.reshape(sizes).permute([order.index(c) for c in out])


def _unrepeated(w: Tensor, labels: str) -> tuple[Tensor, str]:
    """Without the dimensions along which ``w`` repeats itself: it is one array there."""
    for label in labels[:-2]:
        dimension = labels.index(label)
        if w.stride(dimension) == 0 or w.shape[dimension] == 1:
            w, labels = w.select(dimension, 0), labels.replace(label, "")
    return w, labels


def _summed(value: Tensor, labels: str, needed: str) -> tuple[Tensor, str]:
    gone = [i for i, c in enumerate(labels) if c not in needed]
    if not gone:
        return value, labels
    return value.sum(gone), "".join(c for c in labels if c in needed)


def _size(sizes: dict[str, int], labels: list[str]) -> int:
    return prod(sizes[label] for label in labels)


@register_operator(torch.tensordot)
def _tensordot(stored: Stored, a: Tensor, b: Tensor, dims: Any = 2, out: Any = None) -> Any:
    if stored(a) == stored(b) or out is not None or isinstance(dims, Tensor):
        return NotImplemented
    if isinstance(dims, int):
        dims = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    first, second = ([d] if isinstance(d, int) else list(d) for d in dims)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    a_labels = [next(letters) for _ in range(a.ndim)]
    b_labels = [next(letters) for _ in range(b.ndim)]
    for i, j in zip(first, second, strict=True):
        b_labels[j] = a_labels[i]
    shared = {a_labels[i] for i in first}
    result = "".join(c for c in (*a_labels, *b_labels) if c not in shared)
    return _einsum(stored, f"{''.join(a_labels)},{''.join(b_labels)}->{result}", a, b)


# F.grouped_mm is Python that torch does not dispatch; what it calls is.
@register_operator(torch._grouped_mm)
def _grouped(
    stored: Stored,
    mat_a: Tensor,
    mat_b: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Any:
    """Rows sorted by expert times each expert's matrix, shape (experts, K, N)."""
    if not stored(mat_b) or stored(mat_a) or offs is None or mat_a.ndim != 2 or mat_b.ndim != 3:
        return NotImplemented
    ends = offs.tolist()
    parts = [
        F.linear(mat_a[start:end], mat_b[torch.tensor(expert)].t())
        for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        if end > start
    ]
    result = torch.cat([*parts, mat_a.new_zeros(len(mat_a) - ends[-1], mat_b.shape[-1])])
    result = result if bias is None else result + bias
    return result if out_dtype is None else result.to(out_dtype)
