"""A captured graph, ready for torch's exporter.

Every analog call becomes a placeholder, BatchNorm an explicit multiplication and addition, and
every digital product runs in a module of its own, by whose path its nodes are found afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from analogize.capture.capture import GUARDS
from analogize.crossbar.ops import AnalogOp
from analogize.model.digital_nodes import product_of
from analogize.model.module import AnalogModule, DigitalProduct
from analogize.onnx.writing.placeholder import Placeholder, ScaleShift, is_stock_batchnorm

_SCOPE = "analogize_digital_"
_WRAPPER = "analogize_"


@dataclass(frozen=True)
class Prepared:
    """A module that torch can export, and what its parts stand for.

    Attributes:
        module: the model with placeholders instead of analog operators.
        scopes: the digital product that is computed inside a module, by that module's path.
        paths: the model's own path of each module that was wrapped.
    """

    module: nn.Module
    scopes: dict[str, DigitalProduct]
    paths: dict[str, str]


def prepare_graph(
    module: AnalogModule, numbers: dict[AnalogOp, int], exact_batchnorm: bool
) -> Prepared:
    """A copy of the graph with placeholders, explicit BatchNorm and scoped digital products.

    Args:
        module: the rewritten model; it is not changed.
        numbers: each analog operator's number.
        exact_batchnorm: see ``ScaleShift``.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    extra: dict[str, nn.Module] = {}
    paths: dict[str, str] = {}
    scopes: dict[str, DigitalProduct] = {}
    known = {} if module.report is None else {d.name: d for d in module.report.digital}
    for node in list(graph.nodes):
        owner = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(owner, AnalogOp):
            wrapper: nn.Module = Placeholder(owner, numbers[owner], len(extra))
            _call_instead(graph, node, extra, wrapper, (node.args[0], *node.args[2:]))
        elif is_stock_batchnorm(owner):
            wrapper = ScaleShift(owner, exact_batchnorm)
            paths[f"{_WRAPPER}{len(extra)}"] = str(node.target)
            _call_instead(graph, node, extra, wrapper, node.args or tuple(node.kwargs.values()))
        elif (product := product_of(node, known)) is not None:
            path = f"{_SCOPE}{len(scopes)}"
            scopes[path] = product
            extra[path] = _Scope(node, owner)
            if owner is not None:
                paths[f"{path}.owner"] = str(node.target)
            operands = tuple(node.args), dict(node.kwargs)
            with graph.inserting_before(node):
                replacement = graph.call_module(path, *operands)
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
        elif node.target in GUARDS:
            graph.erase_node(node)
    for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
        graph.erase_node(node)
    root: dict[str, Any] = {**_referenced(module, graph), **extra}
    return Prepared(fx.GraphModule(root, graph), scopes, paths)


def _referenced(module: nn.Module, graph: fx.Graph) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in graph.nodes:
        path = str(node.target)
        if path.startswith(_WRAPPER):
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
    path = f"{_WRAPPER}{len(extra)}"
    extra[path] = wrapper
    with graph.inserting_before(node):
        call = graph.call_module(path, tuple(args))
    node.replace_all_uses_with(call)
    graph.erase_node(node)


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
