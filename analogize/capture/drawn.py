"""A graph of a rewritten model whose Python was kept: to look at, never to run."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, fx, nn

from analogize.capture.leaf import is_rewritten, own_forward
from analogize.capture.watched import unwatched
from analogize.crossbar.ops import AnalogOp
from analogize.errors import CaptureError
from analogize.model.module import AnalogModule
from analogize.model.snapshot import Snapshot


def graph_of(model: nn.Module) -> AnalogModule:
    """The graph that was captured, or one traced now, with each optional argument at its default.

    Raises:
        CaptureError: torch.fx cannot trace the model's Python.
    """
    if isinstance(model, AnalogModule):
        return model
    before = Snapshot(model)
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = _Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise CaptureError(
            f"{type(model).__name__} runs as Python of which torch.fx makes no graph: {reason}"
        ) from error
    finally:
        before.restore()
    for node in list(graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "").startswith(
            "_assert"
        ):
            graph.erase_node(node)
    drawn = AnalogModule.over(model, graph)
    drawn.graph.eliminate_dead_code()
    return drawn


class _Tracer(fx.Tracer):
    """Looks into rewritten layers, and shows their operator and their bias."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, AnalogOp):
            return True
        return not is_rewritten(m) and super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if is_rewritten(m):
            with unwatched():
                return own_forward(m, *args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_arg(self, a: Any) -> fx.node.Argument:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            return f"tensor{tuple(a.shape)}"
        return super().create_arg(a)
