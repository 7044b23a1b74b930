"""Capture: from any nn.Module to an fx graph over its own parameters."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import has_side_effect
from torch.utils._pytree import tree_leaves

from analogize.capture.tracing import trace
from analogize.errors import CaptureError
from analogize.model.calls import Call
from analogize.model.module import AnalogModule
from analogize.passes.functionalize import has_hooks

_FX_GUARDS = ("_assert_is_none", "_assert")
_FIXED = (type(None), bool, int, float, complex, str, torch.dtype)
_WAY_OUT = (
    "Pass example_inputs that use the argument like this, or capture='hierarchical', which keeps "
    "the model's Python"
)


@has_side_effect
def require_captured_value(value: Any, argument: str, captured: Any) -> None:
    """Refuse an argument other than the one the graph was captured with.

    Raises:
        CaptureError: the model's Python may branch on the argument, so that the captured graph
            would silently compute something else.
    """
    if value is not captured and not (isinstance(value, type(captured)) and value == captured):
        raise CaptureError(
            f"argument '{argument}' was {captured!r} when the model was captured, and the graph "
            f"holds for that value only; got {_shorten(value)}. {_WAY_OUT}"
        )


@has_side_effect
def require_captured_kind(value: Any, argument: str, kind: str) -> None:
    """Refuse None, a list, or anything else where the captured call had a ``kind``.

    Raises:
        CaptureError: the model's Python may branch on what it is given.
    """
    if not (isinstance(value, Tensor) if kind == "Tensor" else type(value).__name__ == kind):
        raise CaptureError(
            f"argument '{argument}' was a {kind} when the model was captured, and the graph holds "
            f"for that only; got {_shorten(value)}. {_WAY_OUT}"
        )


GUARDS = (require_captured_value, require_captured_kind)


def capture(model: nn.Module, example: Call | None = None) -> AnalogModule:
    """Trace ``model`` symbolically, keeping its names, and guard what the trace assumed.

    Arguments that hold tensors in ``example`` stay open, and may be other such values later. The
    others, and optional arguments that it does not give, are fixed (a Proxy is never None, so that
    tracing them freely would bake in the wrong branch), with guards that refuse other values.

    Raises:
        CaptureError: a module around others has hooks; the model cannot be traced; or it computes
            something else in train() than in eval() in a way that one graph cannot hold.
    """
    _refuse_hooks(model)
    fixed, kinds = _signature(model, example)
    graph, noticed = trace(model, fixed)
    _refuse_mode_dependence(model, graph, fixed)
    _restore_signature(graph, fixed, kinds)
    captured = AnalogModule.over(model, graph)
    captured.meta["noticed"] = noticed
    return captured


def _refuse_hooks(model: nn.Module) -> None:
    """Hooks of modules that dissolve in the graph would run once, while tracing, and then never."""
    for name, module in model.named_modules():
        dissolves = not fx.Tracer().is_leaf_module(module, name) or module is model
        if dissolves and has_hooks(module):
            raise CaptureError(f"module '{name}' has hooks, which a graph would lose")


def _signature(model: nn.Module, example: Call | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments that are fixed, with their value, and the types of those that are open."""
    signature = inspect.signature(model.forward)
    fixed = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
    kinds: dict[str, str] = {}
    given: dict[str, Any] = {}
    if example is not None:
        try:
            given = signature.bind(*example.args, **example.kwargs).arguments
        except TypeError as error:
            raise CaptureError(f"the example inputs do not fit forward(): {error}") from error
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise CaptureError(f"forward() takes '{name}' as a whole, which a graph cannot")
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            fixed.pop(name, None)
            kinds[name] = "Tensor" if isinstance(value, Tensor) else type(value).__name__
        else:
            fixed[name] = value
    for name, value in fixed.items():
        if not isinstance(value, (*_FIXED, Enum)):
            raise CaptureError(
                f"argument '{name}' is {_shorten(value)}; a graph can fix None, numbers and words"
            )
    return fixed, kinds


def _refuse_mode_dependence(model: nn.Module, graph: fx.Graph, fixed: dict[str, Any]) -> None:
    """One graph serves train() and eval(), so both must trace to the same code."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.train(not model.training)
        other, _ = trace(model, fixed)
    finally:
        for module, training in modes:
            module.training = training
    for here, there in zip(graph.nodes, other.nodes, strict=False):
        if here.format_node() != there.format_node():
            raise CaptureError(
                f"node '{here.name}' differs between train() and eval(): {here.format_node()} "
                f"against {there.format_node()}. Use a module such as nn.Dropout instead of the "
                "functional form with training=self.training"
            )
    if len(graph.nodes) != len(other.nodes):
        raise CaptureError("the model runs other operations in train() than in eval()")


def _restore_signature(graph: fx.Graph, fixed: dict[str, Any], kinds: dict[str, str]) -> None:
    """Give arguments their own names back and put our guards for torch.fx's assertions."""
    for node in list(graph.nodes):
        target = getattr(node.target, "__name__", None)
        message = node.args[-1] if node.args else None
        if target in _FX_GUARDS and "specialized" in str(message):
            graph.erase_node(node)
    for node in [n for n in graph.nodes if n.op == "placeholder"]:
        name = str(node.target).rpartition("_")[0]
        if name in fixed:
            node.target = name
            for user in list(node.users):
                graph.erase_node(user)
            with graph.inserting_after(_last_placeholder(graph)):
                graph.call_function(require_captured_value, (node, name, fixed[name]))
        elif (name := str(node.target)) in kinds:
            with graph.inserting_after(_last_placeholder(graph)):
                graph.call_function(require_captured_kind, (node, name, kinds[name]))


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = [n for n in graph.nodes if n.op == "placeholder"]
    return placeholders[-1]


def _shorten(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)[:80]
