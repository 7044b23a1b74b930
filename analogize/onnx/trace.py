"""From a rewritten model to ONNX with one placeholder node for every analog call.

The weights of analog regions do not pass through torch's exporter at all: a placeholder knows its
region's number and nothing else, so that no copy of them is made. BatchNorm becomes an explicit
multiplication and addition, and every digital product is wrapped in a scope of its own, by which
its nodes are found afterwards.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from analogize.calls import Call
from analogize.capture import require_captured_value
from analogize.digital_nodes import product_of
from analogize.errors import ExportError
from analogize.module import AnalogModule, DigitalProduct
from analogize.onnx.manifest import DOMAIN
from analogize.ops import AnalogOp
from analogize.product import Convolution, Product

PLACEHOLDER = "AnalogCall"
DIGITAL_SCOPE = "analogize_digital_"
_MODULE_SCOPE = "analogize_"


@dataclass(frozen=True)
class Traced:
    """An exported graph, and what its placeholders and scopes stand for.

    Attributes:
        model: ONNX with placeholder nodes ``ai.analogize::AnalogCall`` (attribute ``region``).
        operators: the analog operator of each region number.
        digital: the digital product of each scope number.
        paths: the model's own path of each module that was wrapped.
    """

    model: ir.Model
    operators: tuple[AnalogOp, ...]
    digital: tuple[DigitalProduct, ...]
    paths: dict[str, str]


def trace(
    module: AnalogModule, call: Call, *, dynamic_batch: bool, opset: int, exact_batchnorm: bool
) -> Traced:
    """Export ``module`` in eval mode.

    Raises:
        ExportError: torch cannot export the model, or not with a dynamic batch.
    """
    with _eval_mode(module), torch.no_grad():
        prepared, operators, digital, paths = _prepare(module, exact_batchnorm)
        program = _export(prepared, call, dynamic_batch, opset)
    return Traced(program.model, operators, digital, paths)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter logs and warns about its own internals; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(module: fx.GraphModule, call: Call, dynamic_batch: bool, opset: int) -> Any:
    names = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    # torch.export takes a dimension of size 1 for a constant.
    arguments = {k: _two_rows(v) if dynamic_batch else v for k, v in given.items()}
    batch = torch.export.Dim("batch", min=1)
    shapes = {k: _dynamic(v, batch) for k, v in arguments.items()} if dynamic_batch else None
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                (),
                kwargs=arguments,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        hint = (
            "; if its code fixes the batch size, use dynamic_batch=False" if dynamic_batch else ""
        )
        raise ExportError(f"torch cannot export the model: {_first_line(cause)}{hint}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _two_rows(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return torch.cat([value, value])
    if isinstance(value, Mapping):
        return {k: _two_rows(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_two_rows(v) for v in value)
    return value


def _dynamic(value: Any, batch: Any) -> Any:
    if isinstance(value, Tensor):
        return {0: batch} if value.ndim else None
    if isinstance(value, Mapping):
        return {k: _dynamic(v, batch) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_dynamic(v, batch) for v in value)
    return None


def _prepare(
    module: AnalogModule, exact_batchnorm: bool
) -> tuple[fx.GraphModule, tuple[AnalogOp, ...], tuple[DigitalProduct, ...], dict[str, str]]:
    """The graph with placeholders, explicit BatchNorm and scoped digital products."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    extra: dict[str, nn.Module] = {}
    paths: dict[str, str] = {}
    operators: list[AnalogOp] = []
    products: list[DigitalProduct] = []
    known = {} if module.report is None else {d.name: d for d in module.report.digital}
    for node in list(graph.nodes):
        owner = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(owner, AnalogOp):
            if owner not in operators:
                operators.append(owner)
            wrapper: nn.Module = _Placeholder(owner, operators.index(owner), len(extra))
            _call_instead(graph, node, extra, wrapper, (node.args[0], *node.args[2:]))
        elif _is_stock_batchnorm(owner):
            wrapper = _ScaleShift(owner, exact_batchnorm)
            paths[f"{_MODULE_SCOPE}{len(extra)}"] = str(node.target)
            _call_instead(graph, node, extra, wrapper, node.args or tuple(node.kwargs.values()))
        elif (product := product_of(node, known)) is not None:
            path = f"{DIGITAL_SCOPE}{len(products)}"
            products.append(product)
            extra[path] = _Scope(node, owner)
            if owner is not None:
                paths[f"{path}.owner"] = str(node.target)
            operands = tuple(node.args), dict(node.kwargs)
            with graph.inserting_before(node):
                replacement = graph.call_module(path, *operands)
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
        elif node.target is require_captured_value:
            graph.erase_node(node)
    for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
        graph.erase_node(node)
    root: dict[str, Any] = {**_referenced(module, graph), **extra}
    return fx.GraphModule(root, graph), tuple(operators), tuple(products), paths


def _referenced(module: nn.Module, graph: fx.Graph) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in graph.nodes:
        path = str(node.target)
        if path.startswith(_MODULE_SCOPE):
            continue
        if node.op == "call_module":
            found[path] = module.get_submodule(path)
        elif node.op == "get_attr":
            owner, _, name = path.rpartition(".")
            found[path] = getattr(module.get_submodule(owner), name)
    return found


def _call_instead(
    graph: fx.Graph, node: fx.Node, extra: dict[str, nn.Module], wrapper: nn.Module, args: Any
) -> None:
    path = f"{_MODULE_SCOPE}{len(extra)}"
    extra[path] = wrapper
    with graph.inserting_before(node):
        call = graph.call_module(path, tuple(args))
    node.replace_all_uses_with(call)
    graph.erase_node(node)


class _Placeholder(nn.Module):
    """Stands for one call of an analog operator."""

    def __init__(self, op: AnalogOp, region: int, number: int) -> None:
        super().__init__()
        self.product: Product = op.product
        self.weight_shape = tuple(op.array.shape)
        self.region, self.number = region, number

    def forward(self, x: Tensor, output_padding: tuple[int, ...] | None = None) -> Tensor:
        attributes: dict[str, Any] = {"region": self.region, "call": self.number}
        if output_padding is not None:
            attributes["output_padding"] = [int(p) for p in output_padding]
        result: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{PLACEHOLDER}",
            (x,),
            attributes,
            dtype=x.dtype,
            shape=output_shape(self.product, tuple(x.shape), self.weight_shape, output_padding),
            version=1,
        )
        return result


def output_shape(
    product: Product,
    x: tuple[int, ...],
    w: tuple[int, ...],
    output_padding: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """The shape of a product's output; sizes may be symbolic."""
    if not isinstance(product, Convolution):
        return (*x[:-1], w[0]) if len(w) > 1 else x[:-1]
    n = product.dimensions
    spatial, kernel = x[-n:], w[-n:]
    extra = product.output_padding if output_padding is None else output_padding
    sizes = zip(spatial, kernel, product.stride, product.padding, product.dilation, strict=True)
    if product.transposed:
        channels = w[1] * product.groups
        out = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1 + int(e)
            for (size, k, s, p, d), e in zip(sizes, _spread(extra, n), strict=True)
        ]
    else:
        channels = w[0]
        out = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    return (*x[: -n - 1], channels, *out)


def _spread(values: tuple[int, ...], n: int) -> tuple[int, ...]:
    return tuple(values) * n if len(values) == 1 else tuple(values)


class _Scope(nn.Module):
    """Runs what a node ran, inside a module scope of its own."""

    def __init__(self, node: fx.Node, owner: nn.Module | None) -> None:
        super().__init__()
        self.kind, self.target = node.op, node.target
        self.owner = owner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.owner is not None:
            return self.owner(*args, **kwargs)
        if self.kind == "call_method":
            return getattr(args[0], str(self.target))(*args[1:], **kwargs)
        assert callable(self.target)
        return self.target(*args, **kwargs)


def _is_stock_batchnorm(owner: nn.Module | None) -> bool:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return type(owner) in kinds and getattr(owner, "running_var", None) is not None


class _ScaleShift(nn.Module):
    """BatchNorm in eval mode, ``alpha x + beta`` with constants per channel.

    Torch's CPU kernels fuse multiplication and addition (one rounding); float32 ``Mul`` and ``Add``
    round twice, and the last bit differs in a third of the values. In float64 both factors' product
    is exact, so that rounding the sum to float32 gives torch's bits.
    """

    def __init__(self, norm: Any, exact: bool) -> None:
        super().__init__()
        variance = norm.running_var.detach().cpu().numpy()
        inverse = np.float32(1) / np.sqrt(variance + np.float32(norm.eps))
        mean = norm.running_mean.detach().cpu().numpy()
        weight = np.float32(1) if norm.weight is None else norm.weight.detach().cpu().numpy()
        bias = np.float32(0) if norm.bias is None else norm.bias.detach().cpu().numpy()
        alpha = inverse * weight
        # float64 holds the exact product of two float32 numbers: a fused multiply-add, as torch's.
        beta = (bias - mean.astype(np.float64) * alpha.astype(np.float64)).astype(np.float32)
        dtype = torch.float64 if exact else torch.float32
        device = norm.running_var.device
        self.register_buffer("alpha", torch.from_numpy(alpha).to(device, dtype))
        self.register_buffer("beta", torch.from_numpy(beta).to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        alpha, beta = self.get_buffer("alpha"), self.get_buffer("beta")
        return (x.to(alpha.dtype) * alpha.view(shape) + beta.view(shape)).to(x.dtype)
