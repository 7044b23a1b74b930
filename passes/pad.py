"""Padding by name becomes padding by numbers.

    F.conv2d(x, w, padding="same")   ->   F.conv2d(F.pad(x, ...), w, padding=0)
    F.conv2d(x, w, padding="valid")  ->   F.conv2d(x, w, padding=0)

"same" pads the odd sample on the far side, as torch does; an even total needs no F.pad.
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.nn import functional as F

from analogize.passes.signature import bound_arguments, set_arguments, shape_of
from analogize.targets.spec import Target

_CONV = (F.conv1d, F.conv2d, F.conv3d)


def pad(module: fx.GraphModule, target: Target) -> int:
    """Replace "same" and "valid" by numbers; returns how many calls changed."""
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _CONV:
            continue
        arguments = bound_arguments(node)
        if not isinstance(arguments["padding"], str):
            continue
        spatial = _CONV.index(node.target) + 1
        if arguments["padding"] == "valid":
            arguments["padding"] = (0,) * spatial
        else:
            kernel = shape_of(module, arguments["weight"])[2:]
            _pad_same(module.graph, node, arguments, kernel)
        set_arguments(node, arguments)
        count += 1
    return count


def _pad_same(
    graph: fx.Graph, node: fx.Node, arguments: dict[str, Any], kernel: tuple[int, ...]
) -> None:
    dilation = arguments["dilation"]
    steps = (dilation,) * len(kernel) if isinstance(dilation, int) else tuple(dilation)
    total = [d * (k - 1) for d, k in zip(steps, kernel, strict=True)]
    if all(t % 2 == 0 for t in total):
        arguments["padding"] = tuple(t // 2 for t in total)
        return
    amounts = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    with graph.inserting_before(node):
        arguments["input"] = graph.call_function(F.pad, (arguments["input"], tuple(amounts)))
    arguments["padding"] = (0,) * len(kernel)
