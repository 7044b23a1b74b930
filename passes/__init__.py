"""The pipeline: every pass is ``verb(graph_module, target) -> rewrites``, in this order.

Enters: a captured graph and a target. Leaves: the same graph with analog operators, and a record of
every product (``node.meta["analog"]``).
May use: crossbar, model, targets, and the ground (product, quantize, errors).
"""

from analogize.passes.functionalize import functionalize
from analogize.passes.lower import lower
from analogize.passes.mark import mark
from analogize.passes.measure import measure
from analogize.passes.pad import pad
from analogize.passes.split_bias import split_bias
from analogize.passes.verify import verify

PIPELINE = (
    functionalize,  # modules and functions look the same from here on
    pad,  # padding by name becomes numbers
    split_bias,  # the bias is digital, and the product bare
    measure,  # the work of each node, before any disappears
    mark,  # one record a product: selected, or declined with its reason
    lower,  # selected products become analog operators
    verify,  # nothing left over, and the same function
)
