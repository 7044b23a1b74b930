"""Placeholders become standard operators or calls of functions; names and metadata are written."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as passes

from analogize.model.module import DigitalProduct
from analogize.onnx.manifest import (
    DOMAIN,
    LAYER_KEY,
    REASON_KEY,
    REGION_KEY,
    ROLE_KEY,
    Arithmetic,
    CallEntry,
    DigitalEntry,
    Form,
    Manifest,
)
from analogize.onnx.writing.body import Body
from analogize.onnx.writing.describe import entry
from analogize.onnx.writing.emit import emit
from analogize.onnx.writing.exact import doubts, promise
from analogize.onnx.writing.placeholder import PLACEHOLDER
from analogize.onnx.writing.plan import RegionPlan
from analogize.onnx.writing.trace import Traced

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def assemble(
    traced: Traced,
    plans: tuple[RegionPlan, ...],
    target: str,
    form: Form,
    arithmetic: Arithmetic,
) -> Manifest:
    """Rewrite ``traced.model`` in place into its final form; returns its manifest."""
    model = traced.model
    digital = _digital_nodes(model.graph, traced.scopes)
    _clear_metadata(model)
    _restore_names(model.graph, traced.paths)
    writer = _Writer(model, form, arithmetic)
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == PLACEHOLDER:
            writer.replace(node, plans[node.attributes["region"].as_int()])
    _annotate_digital(model.graph, digital, {p.region.bias: p.id for p in plans})
    if form == "flat":
        model.opset_imports.pop(DOMAIN, None)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    manifest = Manifest(
        target=target,
        form=form,
        arithmetic=arithmetic,
        noise=plans[0].kind,
        numerics=promise(model.graph, plans, arithmetic),
        regions=tuple(
            entry(p, tuple(writer.calls[p.id]), exact=not doubts(p, arithmetic))
            for p in plans
            if p.id in writer.calls
        ),
        digital=tuple(
            DigitalEntry(
                name=product.name,
                operator=product.operator,
                reason=product.reason,
                nodes=tuple(n.name or "" for n in nodes),
            )
            for product, nodes in digital
        ),
    )
    model.metadata_props.clear()
    model.metadata_props.update(manifest.metadata())
    model.producer_name, model.producer_version = "analogize", None
    return manifest


class _Writer:
    """Replaces placeholders one by one."""

    def __init__(self, model: ir.Model, form: Form, arithmetic: Arithmetic) -> None:
        self.model, self.form, self.arithmetic = model, form, arithmetic
        self.calls: dict[str, list[CallEntry]] = {}
        self._functions: dict[str, ir.Function] = {}
        self._taken: dict[str, int] = {}

    def replace(self, node: ir.Node, plan: RegionPlan) -> None:
        """Replace one placeholder by the call it stands for."""
        number = len(self.calls.get(plan.id, [])) + 1
        instance = plan.id if number == 1 else f"{plan.id}@{number}"
        x, old = node.inputs[0], node.outputs[0]
        assert x is not None
        nodes = self._flat(node, plan, instance) if self.form == "flat" else None
        if nodes is None:
            nodes = [self._call(node, plan, instance)]
        new = nodes[-1].outputs[0]
        new.name, new.shape, new.type = f"{instance}/output", old.shape, old.type
        product = f"{instance}/mac"
        names = [n.name or "" for n in nodes]
        is_product = [n == product or n.startswith(f"{product}/tile") for n in names]
        anchor = nodes[is_product.index(True) if any(is_product) else -1]
        for made in nodes:
            made.metadata_props[REGION_KEY] = plan.id
            made.metadata_props[LAYER_KEY] = f"analog/{plan.id}"
        if old in self.model.graph.outputs:
            new.name = old.name
        self.model.graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.model.graph.remove(node, safe=True)
        self.calls.setdefault(plan.id, []).append(
            CallEntry(
                node=anchor.name or "",
                input=x.name or "",
                output=new.name or "",
                last=nodes[-1].name or "",
            )
        )

    def _flat(self, node: ir.Node, plan: RegionPlan, instance: str) -> list[ir.Node]:
        x = node.inputs[0]
        assert x is not None
        body = Body(lambda name, array: self._initializer(plan, name, array))
        self._emit(body, node, plan, x, self._weight(plan))
        for end, made in body.nodes:
            made.name = f"{instance}/{end}"
            made.outputs[0].name = made.name
        return [made for _, made in body.nodes]

    def _emit(
        self, body: Body, node: ir.Node, plan: RegionPlan, x: ir.Value, weight: ir.Value
    ) -> ir.Value:
        source = node.inputs[0]
        assert source is not None
        assert source.shape is not None
        extra = node.attributes.get("output_padding")
        padding = None if extra is None else tuple(extra.as_ints())
        result = emit(body, plan, x, weight, source.shape.rank(), self.arithmetic, padding)
        return result

    def _call(self, node: ir.Node, plan: RegionPlan, instance: str) -> ir.Node:
        """A call of the function with this region's structure, made where there is none yet."""
        formal: dict[str, ir.Value] = {}
        actual: list[ir.Value] = []

        def constant(name: str, array: npt.NDArray[Any]) -> ir.Value:
            if name not in formal:
                formal[name] = ir.Value(name=name.replace("/", "_"))
                actual.append(self._initializer(plan, name, array))
            return formal[name]

        body = Body(constant)
        x, weight = ir.Value(name="x"), ir.Value(name="weight")
        y = self._emit(body, node, plan, x, weight)
        y.name = "y"
        for end, made in body.nodes:
            made.name = end
            if made.outputs[0] is not y:
                made.outputs[0].name = end.replace("/", "_")
        function = self._function(
            plan, [made for _, made in body.nodes], [x, weight, *formal.values()], y
        )
        source = node.inputs[0]
        return ir.node(
            function.name,
            [source, self._weight(plan), *actual],
            domain=DOMAIN,
            name=instance,
            metadata_props={ROLE_KEY: "op"},
        )

    def _function(
        self, plan: RegionPlan, nodes: list[ir.Node], inputs: list[ir.Value], y: ir.Value
    ) -> ir.Function:
        structure = repr(
            [
                (
                    n.op_type,
                    n.name,
                    [v and v.name for v in n.inputs],
                    sorted(map(str, n.attributes.values())),
                )
                for n in nodes
            ]
        )
        if structure not in self._functions:
            name = "Analog" + "".join(part.capitalize() for part in plan.region.operator.split("_"))
            self._taken[name] = self._taken.get(name, 0) + 1
            if self._taken[name] > 1:
                name = f"{name}_{self._taken[name]}"
            opset = self.model.opset_imports[""]
            graph = ir.Graph(inputs, [y], nodes=nodes, opset_imports={"": opset}, name=name)
            graph.doc_string = f"{plan.region.operator} on an analog array: DAC, product, ADC"
            function = ir.Function(DOMAIN, name, graph=graph, attributes=[])
            self._functions[structure] = function
            self.model.functions[function.identifier()] = function
        return self._functions[structure]

    def _weight(self, plan: RegionPlan) -> ir.Value:
        return self._initializer(plan, "weight", plan.stored.values)

    def _initializer(self, plan: RegionPlan, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """An initializer of the region's own, made once; arrays are shared with their owner."""
        owner = plan.owner if name.startswith("weight") else plan.id
        full = f"{owner}/{name}"
        known = self.model.graph.initializers.get(full)
        if known is not None:
            return known
        tensor = ir.Tensor(np.ascontiguousarray(array) if array.ndim else array, name=full)
        value = ir.Value(
            name=full, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        value.metadata_props[REGION_KEY] = owner
        self.model.graph.register_initializer(value)
        return value


def _clear_metadata(model: ir.Model) -> None:
    """Drop what torch's exporter adds: stack traces with local paths, module names."""
    model.doc_string = None
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def _restore_names(graph: ir.Graph, paths: dict[str, str]) -> None:
    """Give parameters inside the exporter's own wrappers the names they have in the model."""
    for value in list(graph.initializers.values()):
        name = value.name or ""
        for wrapper, path in paths.items():
            if name.startswith(f"{wrapper}."):
                value.name = path + name.removeprefix(wrapper)


def _digital_nodes(
    graph: ir.Graph, scopes: dict[str, DigitalProduct]
) -> list[tuple[DigitalProduct, list[ir.Node]]]:
    """The nodes inside the scope of each digital product."""
    found: dict[str, list[ir.Node]] = {scope: [] for scope in scopes}
    for node in graph.all_nodes():
        around = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
        inside = next((str(scope) for scope in around if str(scope) in found), None)
        if inside is not None:
            found[inside].append(node)
    return [(scopes[scope], nodes) for scope, nodes in found.items()]


def _annotate_digital(
    graph: ir.Graph,
    products: list[tuple[DigitalProduct, list[ir.Node]]],
    biases: dict[str | None, str],
) -> None:
    """Say of every node outside the regions why it is digital."""
    for product, nodes in products:
        for node in nodes:
            node.metadata_props[REASON_KEY] = f"{product.name}: {product.reason}"
            node.metadata_props[LAYER_KEY] = f"digital/{product.name}"
    for node in graph.all_nodes():
        if REGION_KEY in node.metadata_props:
            continue
        if REASON_KEY not in node.metadata_props:
            node.metadata_props[REASON_KEY] = _reason(node, biases)
        node.metadata_props.setdefault(LAYER_KEY, "digital")
        node.metadata_props[ROLE_KEY] = "digital"


def _reason(node: ir.Node, biases: dict[str | None, str]) -> str:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        source = value if producer is None else (producer.inputs[0] if producer.inputs else None)
        name = source.name if source is not None else None
        if name in biases:
            return f"bias of region '{biases[name]}', which is added after the ADC"
    return "not a product with stored weights"
