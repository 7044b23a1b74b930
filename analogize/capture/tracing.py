"""Symbolic tracing that refuses what a graph would silently freeze or lose.

``torch.fx`` runs a model's Python once. What that Python does besides computing (it draws a random
number, counts in a buffer, remembers an activation, writes in place, checkpoints) would happen
while tracing and never again. Each of these is a reason not to take the graph.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import checkpoint

from analogize.capture.frozen import Noticed
from analogize.capture.modes import noticing
from analogize.errors import CaptureError
from analogize.model.snapshot import Snapshot
from analogize.model.undo import Undo, stateful

_CHECKPOINTS = (checkpoint.checkpoint, checkpoint.checkpoint_sequential)


class _Buffer(fx.proxy.ParameterProxy):
    """A buffer whose shape is known while tracing, as a parameter's is."""

    def __init__(self, tracer: fx.Tracer, node: fx.Node, name: str, buffer: Tensor) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.param, self.name = buffer, name  # type: ignore[assignment]


class _Tracer(fx.Tracer):
    """Reads buffers when the graph runs, not while it is traced, and makes no constants."""

    def __init__(self) -> None:
        super().__init__((math,), _CHECKPOINTS, param_shapes_constant=True)
        self._autowrap_search.append(checkpoint)

    def create_arg(self, a: Any) -> fx.node.Argument:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            raise CaptureError(
                f"its Python makes a tensor of shape {tuple(a.shape)}, which a graph would freeze "
                "with its values, device and dtype; register it as a buffer"
            )
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter):
            for name, buffer in self.root.named_buffers():
                if buffer is attr_val:
                    if name not in parameter_proxy_cache:
                        node = self.create_node("get_attr", name, (), {})
                        parameter_proxy_cache[name] = _Buffer(self, node, name, buffer)
                    return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(model: nn.Module, fixed: dict[str, Any]) -> tuple[fx.Graph, Noticed]:
    """The graph of ``model``'s forward; arguments in ``fixed`` have that value, the others any.

    Returns:
        The graph, and what its Python read.

    Raises:
        CaptureError: it cannot be traced, or does what a graph would not repeat. The model is
            left as it was.
    """
    try:
        with _without_side_effects(model), noticing() as noticed:
            graph = _Tracer().trace(model, concrete_args=fixed or None)
    except CaptureError as error:
        raise CaptureError(f"{type(model).__name__} has no graph of its own: {error}") from error
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. Common causes are "
            "control flow that depends on tensor values or shapes; move it into a submodule that "
            "holds no weights, or wrap the function with torch.fx.wrap"
        ) from error
    if noticed.words:
        raise CaptureError(
            f"{type(model).__name__} has no graph of its own: its Python {noticed.words[0]}, "
            "which a graph would hold as it was while tracing"
        )
    for node in graph.nodes:
        _refuse_effects(model, node)
    return graph, noticed


@contextmanager
def _without_side_effects(model: nn.Module) -> Iterator[None]:
    """Undo, and then refuse, whatever tracing does to ``model`` or to a random state.

    Raises:
        CaptureError: an attribute was set, or a random number was drawn.
    """
    before, outside = (
        Snapshot(model),
        {
            "torch's generator": _torch_state(),
            "Python's random": stateful(random.getstate, random.setstate),
        },
    )
    if (numpy := sys.modules.get("numpy.random")) is not None:
        outside["numpy.random"] = stateful(numpy.get_state, numpy.set_state)
    try:
        yield
    finally:
        changed = before.restore()
        drawn = [name for name, undo in outside.items() if undo()]
    if changed:
        raise CaptureError(f"its forward sets '{changed[0]}', which a graph would not")
    if drawn:
        raise CaptureError(
            f"its Python draws from {drawn[0]}, and a graph would freeze what it drew"
        )


def _torch_state() -> Undo:
    before = torch.get_rng_state()

    def undo() -> bool:
        if torch.equal(torch.get_rng_state(), before):
            return False
        torch.set_rng_state(before)
        return True

    return undo


def _refuse_effects(model: nn.Module, node: fx.Node) -> None:
    """Refuse what a graph would lose or do to a copy: writing in place, and checkpoints.

    Raises:
        CaptureError: with the node.
    """
    if node.op == "call_function" and node.target in _CHECKPOINTS:
        raise CaptureError(f"node '{node.name}' is a checkpoint, which a graph would dissolve")
    if not _writes(model, node):
        return
    if not node.users:
        reason = "writes in place and nobody uses its result, so that a graph would drop it"
        raise CaptureError(f"node '{node.name}' {reason}")
    source: Any = node.args[0] if node.args else None
    while isinstance(source, fx.Node) and source.op.startswith("call") and source.args:
        source = source.args[0]
    if isinstance(source, fx.Node) and source.op == "get_attr":
        raise CaptureError(f"node '{node.name}' writes into '{source.target}' in every call")


def _writes(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    by_name = name.endswith("_") and not name.endswith("__")
    return by_name or "out" in node.kwargs or bool(node.kwargs.get("inplace"))
