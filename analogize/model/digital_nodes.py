"""Which product left digital a node of the graph computes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from analogize.model.module import DigitalProduct


def product_of(node: fx.Node, known: Mapping[str, DigitalProduct]) -> DigitalProduct | None:
    """The product among ``known``, by name, that ``node`` computes, or None.

    Copies and pickles of a model lose what the passes noted on its nodes; names are kept. A
    product's name is its node's, its module's, or that of its weight.
    """
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    record = node.meta.get("analog")
    names = [str(getattr(record, "name", "")), node.name, str(node.target)]
    if node.op == "call_function":
        weights = [str(a.target) for a in node.all_input_nodes if a.op == "get_attr"]
        names += [name for w in weights for name in (w, w.removesuffix(".weight"))]
    product = next((known[n] for n in names if n in known), None)
    if product is None or node.op == "call_module" or record is not None:
        return product
    function = getattr(node.target, "__name__", str(node.target))
    return product if function == product.operator else None
