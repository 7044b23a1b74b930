"""Select what becomes analog, and keep the reason of everything that does not.

Every product gets one record in ``node.meta["analog"]``: ``Selected`` or ``Declined``. Lowering
and the summary read it; no other place decides.
"""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from analogize.errors import PassError
from analogize.passes.functionalize import has_hooks
from analogize.passes.request import DigitalChoice, request_of
from analogize.passes.signature import PRODUCTS, attribute, bound_arguments
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
# Leaf modules whose parameters scale or look up, but never enter a matrix product.
_NO_PRODUCT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)


@dataclass(frozen=True)
class Selected:
    """This product becomes the analog region ``name``, holding the parameter ``weight``."""

    name: str
    operator: str
    weight: str


@dataclass(frozen=True)
class Declined:
    """This product stays digital, for ``reason``."""

    name: str
    operator: str
    reason: str


def mark(module: fx.GraphModule, target: Target) -> int:
    """Write a record on every product; returns how many were selected.

    Raises:
        PassError: a pattern of the target's or the user's matches no region.
    """
    choices = (*target.digital.names, *request_of(module).digital)
    used: set[int] = set()
    names: list[str] = []
    count = 0
    for node in module.graph.nodes:
        record = _judge(module, node, target)
        if isinstance(record, Selected):
            names.append(record.name)
            owner = _owner(module, record)
            for index, choice in enumerate(choices):
                if _matches(choice, record, owner):
                    used.add(index)
                    record = Declined(record.name, record.operator, f"kept digital: {_say(choice)}")
                    break
        if record is not None:
            node.meta["analog"] = record
            count += isinstance(record, Selected)
    user_choices = range(len(target.digital.names), len(choices))
    _refuse_unused([choices[i] for i in user_choices if i not in used], names)
    return count


def _judge(module: fx.GraphModule, node: fx.Node, target: Target) -> Selected | Declined | None:
    if node.op == "call_module":
        return _judge_module(module, node)
    if node.op == "call_function" and node.target in PRODUCTS:
        return _judge_product(module, node, target)
    is_function = node.op == "call_function" and node.target in _OTHER_PRODUCTS
    if is_function or (node.op == "call_method" and node.target in _PRODUCT_METHODS):
        name = getattr(node.target, "__name__", str(node.target))
        stored = any(_is_stored(n) for n in node.all_input_nodes)
        reason = (
            f"'{name}' with a stored weight is not supported; use nn.Linear or F.linear"
            if stored
            else "both operands are activations"
        )
        return Declined(node.name, name, reason)
    return None


def _judge_module(module: fx.GraphModule, node: fx.Node) -> Declined | None:
    owner = module.get_submodule(str(node.target))
    if isinstance(owner, _NO_PRODUCT) or not any(p.ndim > 1 for p in owner.parameters()):
        return None
    kind = type(owner).__name__
    if has_hooks(owner):
        reason = "it has hooks, which would no longer run"
    else:
        reason = f"{kind} is not supported; write it with nn.Linear or F.linear"
    return Declined(str(node.target), kind, reason)


def _judge_product(module: fx.GraphModule, node: fx.Node, target: Target) -> Selected | Declined:
    operator_name = PRODUCTS[node.target].operator
    arguments = bound_arguments(node)
    weight = arguments["weight"]
    name = str(node.meta.get("module", node.name))
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        stored = isinstance(weight, fx.Node) and _is_stored(weight)
        reason = "its weight is computed from parameters" if stored else "both are activations"
        return Declined(name, operator_name, reason)
    if isinstance(arguments["input"], fx.Node) and _is_stored(arguments["input"]):
        return Declined(name, operator_name, "its input is stored too; nothing is computed online")
    path = str(weight.target)
    value = attribute(module, path)
    if not isinstance(value, nn.Parameter):
        kind = "a buffer" if _is_buffer(module, path) else "computed from parameters"
        return Declined(name, operator_name, f"its weight '{path}' is {kind}")
    name = path.removesuffix(".weight") if path.endswith(".weight") else path
    dynamic = [k for k, v in arguments.items() if k not in ("input", "weight") and _has_node(v)]
    dynamic = [k for k in dynamic if k != "output_padding"]
    if dynamic:
        return Declined(name, operator_name, f"its {dynamic[0]} is computed at run time")
    if operator_name in target.digital.operators:
        return Declined(
            name, operator_name, f"target '{target.name}' keeps {operator_name} digital"
        )
    return Selected(name, operator_name, path)


def _is_stored(node: fx.Node) -> bool:
    """Whether a value is computed from parameters and buffers alone."""
    if node.op == "get_attr":
        return True
    inputs = node.all_input_nodes
    return node.op != "placeholder" and bool(inputs) and all(_is_stored(n) for n in inputs)


def _is_buffer(module: fx.GraphModule, path: str) -> bool:
    return path in dict(module.named_buffers(remove_duplicate=False))


def _has_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return bool(found)


def _owner(module: fx.GraphModule, record: Selected) -> nn.Module:
    return module.get_submodule(record.weight.rpartition(".")[0])


def _matches(choice: DigitalChoice, record: Selected, owner: nn.Module) -> bool:
    if isinstance(choice, str):
        return fnmatchcase(record.name, choice)
    if isinstance(choice, type):
        return isinstance(owner, choice)
    return bool(choice(record.name, owner))


def _say(choice: DigitalChoice) -> str:
    if isinstance(choice, str):
        return f"matches '{choice}'"
    return f"matches {getattr(choice, '__name__', repr(choice))}"


def _refuse_unused(unused: list[DigitalChoice], names: list[str]) -> None:
    for choice in unused:
        near = difflib.get_close_matches(choice, names, 3) if isinstance(choice, str) else []
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise PassError(
            f"digital: {choice!r} matches no region; {hint}the regions are "
            f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        )
