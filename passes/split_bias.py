"""The bias leaves the product and becomes a digital addition.

    y = F.conv2d(x, w, b)   ->   y = F.conv2d(x, w); y = y + b.type_as(y).view(-1, 1, 1)

The paper quantizes the array's output before the bias is added, in the digital domain
(Noisy Machines, section 5.1). The bias keeps its parameter and its name.
"""

from __future__ import annotations

import operator

from torch import fx

from analogize.passes.signature import PRODUCTS, bound_arguments, set_arguments
from analogize.targets.spec import Target


def split_bias(module: fx.GraphModule, target: Target) -> int:
    """Split the bias off every product that has one; returns how many."""
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in PRODUCTS:
            continue
        arguments = bound_arguments(node)
        bias = arguments["bias"]
        if bias is None:
            continue
        arguments["bias"] = None
        set_arguments(node, arguments)
        users = list(node.users)
        with module.graph.inserting_after(node):
            total = module.graph.call_function(operator.add, (node, bias))
        with module.graph.inserting_before(total):
            # Under autocast the product is narrower than its bias, and so must the sum be.
            addend = module.graph.call_method("type_as", (bias, node))
            if dimensions := PRODUCTS[node.target].dimensions:
                addend = module.graph.call_method("view", (addend, -1, *[1] * dimensions))
        total.args = (node, addend)
        for user in users:
            user.replace_input_with(node, total)
        total.meta = {"module": node.meta.get("module"), "bias_of": node}
        node.meta["bias"] = bias
        count += 1
    return count
