"""Select what becomes analog, and keep the reason of everything that does not.

Every product gets one record in ``node.meta["analog"]``: ``Selected`` or ``Declined``. Lowering
and the summary read it; no other place decides.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from analogize.passes.choice import (
    ACTIVATIONS,
    DISTANCE,
    NEEDS_A_RULE,
    NO_PRODUCT,
    Choices,
    Declined,
    Selected,
    enclosing,
    unmappable,
)
from analogize.passes.functionalize import has_hooks
from analogize.passes.request import request_of
from analogize.passes.signature import DISTANCES, PRODUCTS, RULES, attribute, bound_arguments
from analogize.targets.spec import Target

_OTHER_PRODUCTS = {
    torch.matmul,
    operator.matmul,
    torch.mm,
    torch.bmm,
    torch.mv,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    torch.tensordot,
    nn.functional.bilinear,
    nn.functional.scaled_dot_product_attention,
}
_PRODUCT_METHODS = {"matmul", "mm", "bmm", "mv", "addmm", "baddbmm", "__matmul__"}


def mark(module: fx.GraphModule, target: Target) -> int:
    """Write a record on every product; returns how many were selected.

    Raises:
        PassError: a pattern of the target's or the user's matches no region.
    """
    choices = Choices(target, request_of(module).digital)
    stored = _stored(module.graph)
    count = 0
    for node in module.graph.nodes:
        record = _judge(module, node, stored)
        if isinstance(record, Selected):
            record = choices.decide(record, enclosing(module, record.weight))
        if record is not None:
            node.meta["analog"] = record
            count += isinstance(record, Selected)
    choices.require_used()
    return count


def _judge(
    module: fx.GraphModule, node: fx.Node, stored: set[fx.Node]
) -> Selected | Declined | None:
    if node.op == "call_module":
        return _judge_module(module, node)
    if node.op == "call_function" and node.target in PRODUCTS:
        return _judge_product(module, node, stored)
    is_function = node.op == "call_function" and node.target in _OTHER_PRODUCTS
    if is_function or (node.op == "call_method" and node.target in _PRODUCT_METHODS):
        name = getattr(node.target, "__name__", str(node.target))
        is_stored = any(n in stored for n in node.all_input_nodes)
        reason = (
            f"'{name}' with a stored weight is not supported; use nn.Linear or F.linear"
            if is_stored
            else ACTIVATIONS
        )
        return Declined(node.name, name, reason)
    inputs = node.all_input_nodes
    weights = [n for n in inputs if n in stored]
    if node.op == "call_function" and 0 < len(weights) < len(inputs):
        name = getattr(node.target, "__name__", node.name)
        if node.target in DISTANCES:
            return Declined(node.name, name, DISTANCE)
        if node.target in RULES:
            return Declined(node.name, name, NEEDS_A_RULE)
    return None


def _judge_module(module: fx.GraphModule, node: fx.Node) -> Declined | None:
    owner = module.get_submodule(str(node.target))
    if isinstance(owner, NO_PRODUCT) or not any(p.ndim > 1 for p in owner.parameters()):
        return None
    kind = type(owner).__name__
    if has_hooks(owner):
        reason = "it has hooks, which would no longer run"
    else:
        reason = f"{kind} is not supported; write it with nn.Linear or F.linear"
    return Declined(str(node.target), kind, reason)


def _judge_product(
    module: fx.GraphModule, node: fx.Node, stored: set[fx.Node]
) -> Selected | Declined:
    operator_name = PRODUCTS[node.target].operator
    arguments = bound_arguments(node)
    weight = arguments["weight"]
    name = str(node.meta.get("module", node.name))
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        is_stored = isinstance(weight, fx.Node) and weight in stored
        reason = "its weight is computed from parameters" if is_stored else "both are activations"
        return Declined(name, operator_name, reason)
    if arguments["input"] in stored:
        return Declined(name, operator_name, "its input is stored too; nothing is computed online")
    path = str(weight.target)
    value = attribute(module, path)
    if not isinstance(value, nn.Parameter):
        kind = "a buffer" if _is_buffer(module, path) else "computed from parameters"
        return Declined(name, operator_name, f"its weight '{path}' is {kind}")
    if (why_not := unmappable(value)) is not None:
        return Declined(name, operator_name, why_not)
    name = path.removesuffix(".weight") if path.endswith(".weight") else path
    dynamic = [k for k, v in arguments.items() if k not in ("input", "weight") and _has_node(v)]
    dynamic = [k for k in dynamic if k != "output_padding"]
    if dynamic:
        return Declined(name, operator_name, f"its {dynamic[0]} is computed at run time")
    return Selected(name, operator_name, path)


def _stored(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that are computed from parameters and buffers alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        computed = node.op != "placeholder" and bool(inputs) and found.issuperset(inputs)
        if node.op == "get_attr" or computed:
            found.add(node)
    return found


def _is_buffer(module: fx.GraphModule, path: str) -> bool:
    return path in dict(module.named_buffers(remove_duplicate=False))


def _has_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return bool(found)
