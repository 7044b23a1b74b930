"""Capture: from any nn.Module to an fx graph over its own parameters."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import has_side_effect

from analogize.errors import CaptureError
from analogize.module import AnalogModule
from analogize.passes.functionalize import has_hooks

_FX_GUARDS = ("_assert_is_none", "_assert")


@has_side_effect
def require_captured_value(value: Any, argument: str, captured: Any) -> None:
    """Refuse an optional argument other than the one the graph was captured with.

    Raises:
        CaptureError: the model's Python may branch on the argument, so that the captured graph
            would silently compute something else.
    """
    if value is not captured and not (isinstance(value, type(captured)) and value == captured):
        raise CaptureError(
            f"argument '{argument}' was {captured!r} when the model was captured, and the graph "
            f"holds for that value only; got {_shorten(value)}. Wrap the model so that the "
            "argument is fixed, or make it a required tensor"
        )


def capture(model: nn.Module) -> AnalogModule:
    """Trace ``model`` symbolically, keeping its names, and guard what the trace assumed.

    Optional arguments are fixed at their defaults (a Proxy is never None, so tracing them freely
    would bake in the wrong branch), with a guard that refuses other values later.

    Raises:
        CaptureError: a module around others has hooks; the model cannot be traced; or it computes
            something else in train() than
            in eval() in a way that one graph cannot hold.
    """
    _refuse_hooks(model)
    graph = _trace(model)
    _refuse_mode_dependence(model, graph)
    _restore_signature(graph, _optional_arguments(model))
    return AnalogModule.over(model, graph)


def _refuse_hooks(model: nn.Module) -> None:
    """Hooks of modules that dissolve in the graph would run once, while tracing, and then never."""
    for name, module in model.named_modules():
        dissolves = not fx.Tracer().is_leaf_module(module, name) or module is model
        if dissolves and has_hooks(module):
            raise CaptureError(f"module '{name}' has hooks, which a graph would lose")


def _trace(model: nn.Module) -> fx.Graph:
    try:
        tracer = fx.Tracer(param_shapes_constant=True)
        return tracer.trace(model, concrete_args=_optional_arguments(model) or None)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. Common causes are "
            "control flow that depends on tensor values or shapes; move it into a submodule that "
            "holds no weights, or wrap the function with torch.fx.wrap"
        ) from error


def _optional_arguments(model: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _refuse_mode_dependence(model: nn.Module, graph: fx.Graph) -> None:
    """One graph serves train() and eval(), so both must trace to the same code."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.train(not model.training)
        other = _trace(model)
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


def _restore_signature(graph: fx.Graph, optional: dict[str, Any]) -> None:
    """Give arguments their own names back and put our guards for torch.fx's assertions."""
    for node in list(graph.nodes):
        target = getattr(node.target, "__name__", None)
        message = node.args[-1] if node.args else None
        if target in _FX_GUARDS and "specialized" in str(message):
            graph.erase_node(node)
    for node in list(graph.nodes):
        name = str(node.target).rpartition("_")[0]
        if node.op != "placeholder" or name not in optional:
            continue
        node.target = name
        for user in list(node.users):
            graph.erase_node(user)
        with graph.inserting_after(_last_placeholder(graph)):
            graph.call_function(require_captured_value, (node, name, optional[name]))


def _last_placeholder(graph: fx.Graph) -> fx.Node:
    placeholders: list[fx.Node] = [n for n in graph.nodes if n.op == "placeholder"]
    return placeholders[-1]


def _shorten(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)[:80]
