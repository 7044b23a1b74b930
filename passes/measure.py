"""Count each node's multiply-accumulates and record its shapes, by running the example inputs.

Writes ``node.meta["macs"]``, ``node.meta["shape"]`` and, for products, ``node.meta["in_shape"]``.
Without example inputs it does nothing, and shares of the work stay unknown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from analogize.model.counting import eval_mode
from analogize.passes.request import request_of
from analogize.targets.spec import Target


def measure(module: fx.GraphModule, target: Target) -> int:
    """Annotate nodes with multiply-accumulates and shapes; returns 0, for nothing is rewritten."""
    example = request_of(module).example
    if example is None:
        return 0
    with eval_mode(module), torch.no_grad():
        _Meter(module).run(*_positional(module.graph, example.args, dict(example.kwargs)))
    return 0


class _Meter(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        n.meta["macs"] = counter.get_total_flops() // 2
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def _positional(graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments in the order of the placeholders, as the interpreter takes them."""
    values = list(args)
    for node in [n for n in graph.nodes if n.op == "placeholder"][len(args) :]:
        name = str(node.target)
        if name in kwargs:
            values.append(kwargs[name])
        elif node.args:
            values.append(node.args[0])
    return values
