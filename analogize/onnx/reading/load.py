"""A file back as a runnable analog module.

The graph is followed from its outputs to its inputs. Where it reaches the output of a region's
call, an analog operator built from the manifest stands for everything between there and the
region's input; all else runs as digital operators.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from analogize.crossbar.array import WeightArray
from analogize.crossbar.ops import AnalogOp, NoiseMode, operators
from analogize.crossbar.region import Region
from analogize.crossbar.witness import Witness
from analogize.errors import ExportError
from analogize.model.module import AnalogModule, DigitalProduct, Report
from analogize.onnx.manifest import CallEntry, Manifest, RegionEntry
from analogize.onnx.reading.decode import (
    decode,
    find_weight,
    require_same_scales,
    require_unchanged,
)
from analogize.onnx.reading.kernels import bind, raise_unfit, run
from analogize.onnx.reading.read import load_model, read_manifest
from analogize.onnx.reading.settings import product_of, target_of
from analogize.onnx.reading.trust import reading, require_leave
from analogize.product import Product
from analogize.targets import spec
from analogize.targets.functions import Allowed

_MODES: dict[str, NoiseMode] = {"none": "off", "runtime": "fresh", "programmed": "programmed"}


def load_onnx(path: str | os.PathLike[str], *, allow_functions: Allowed = False) -> AnalogModule:
    """Rebuild a runnable analog module from an annotated file.

    Its outputs are the file's. Noise is as in the file: off, fresh at every pass, or that of the
    programmed chip, whose weights are then the only ones known. Weights return on their grid, not
    as they were before quantization.

    Args:
        path: a file of ``export_onnx``, as written or after tools that keep its tensors' names.
        allow_functions: which Python functions (``package.module:function``) the file's noise may
            import and call: none, all (True), or those named. See ``load_target``.

    Returns:
        The module, in eval mode.

    Raises:
        ExportError: no such file, no manifest, tensors of a region that a tool has removed, a
            digital operator that cannot be run here, or a function without leave.
    """
    source = str(path)
    model = load_model(path)
    manifest = read_manifest(model, source)
    if manifest is None:
        raise ExportError(
            f"{source}: has no manifest, so converters and noise are unknown; load the file as "
            "export_onnx() wrote it"
        )
    require_leave(manifest, source, allow_functions)
    with reading(source, "its graph"):
        return _Loader(model, manifest, source).build()


class _Loader:
    def __init__(self, model: onnx.ModelProto, manifest: Manifest, source: str) -> None:
        self.model, self.manifest, self.source = model, manifest, source
        self.tensors = {t.name: t for t in model.graph.initializer}
        self.producers = {
            name: (node, index)
            for node in model.graph.node
            for index, name in enumerate(node.output)
        }
        self.outputs = {n.name: n.output[0] for n in model.graph.node if n.name and n.output}
        self.calls = {self._output_of(c): (r, c.input) for r in manifest.regions for c in r.calls}
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.results: dict[int, fx.Node] = {}
        self.arrays: dict[str, tuple[WeightArray, str]] = {}
        self.paths: dict[str, str] = {}

    def _output_of(self, call: CallEntry) -> str:
        """The tensor that leaves a call's ADC, also where a tool has renamed it."""
        return call.output if call.output in self.producers else self.outputs.get(call.last, "")

    def build(self) -> AnalogModule:
        for entry in self.manifest.regions:
            with reading(self.source, f"region '{entry.id}'"):
                self._operator(entry)
        for value in self.model.graph.input:
            if value.name not in self.tensors:
                self.values[value.name] = self.graph.placeholder(_identifier(value.name))
        outputs = tuple(self._value(o.name) for o in self.model.graph.output)
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        module = AnalogModule.over(self.root, self.graph)
        digital = tuple(DigitalProduct(d.name, d.operator, d.reason) for d in self.manifest.digital)
        module.report = Report(self.manifest.target, digital, None)
        for op in operators(module):
            op.bind(module)
            if op.array.chip is not None:
                op.array.witness = Witness(op.stored.value(), op.stored)
        return module.eval()

    def _value(self, name: str) -> fx.Node:
        """The node that computes a tensor, made with everything it needs."""
        pending, begun = [name], set[str]()
        while pending:
            current = pending[-1]
            if current in self.values:
                pending.pop()
                continue
            needed = [n for n in self._inputs(current) if n and n not in self.values]
            if needed and current in begun:
                raise ExportError(
                    f"{self.source}: tensor '{current}' is computed from itself; a graph with a "
                    "circle cannot be run: export the model again"
                )
            begun.add(current)
            if needed:
                pending += needed
            else:
                with reading(self.source, f"tensor '{current}'"):
                    self.values[current] = self._make(current)
        return self.values[name]

    def _inputs(self, name: str) -> list[str]:
        if name in self.calls:
            return [self.calls[name][1]]
        if name in self.tensors:
            return []
        if name not in self.producers:
            raise ExportError(
                f"{self.source}: nothing computes tensor '{name}'; graph and manifest disagree, "
                "or a tool has renamed it: load the file as export_onnx() wrote it"
            )
        return list(self.producers[name][0].input)

    def _make(self, name: str) -> fx.Node:
        if name in self.calls:
            entry, source = self.calls[name]
            weight = self.graph.get_attr(self.arrays[_owner(entry)][1])
            return self.graph.call_module(self.paths[entry.id], (self.values[source], weight))
        if name in self.tensors:
            return self._constant(name, self.tensors[name])
        node, index = self.producers[name]
        if node.op_type == "Constant":
            tensor = helper.get_attribute_value(node.attribute[0])
            if not isinstance(tensor, onnx.TensorProto):
                tensor = numpy_helper.from_array(np.asarray(tensor))
            return self._constant(name, tensor)
        key = id(node)
        if key not in self.results:
            attributes = self._attributes(node)
            inputs = [self.values[i] if i else None for i in node.input]
            self.results[key] = self.graph.call_function(run, (node.op_type, attributes, *inputs))
        result = self.results[key]
        if sum(map(bool, node.output)) == 1:
            return result
        return self.graph.call_function(_item, (result, index))

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        try:
            if node.domain not in ("", "ai.onnx"):
                raise ExportError("load_onnx runs standard operators only")
            if node.op_type != "Split" and sum(map(bool, node.output)) > 1:
                raise ExportError("load_onnx runs it with one output only")
            return bind(node.op_type, {a.name: _attribute(a) for a in node.attribute})
        except ExportError as error:
            raise ExportError(
                f"{self.source}: node '{node.name}' is '{node.domain or 'ai.onnx'}::"
                f"{node.op_type}': {error}; run the file in onnxruntime instead"
            ) from error

    def _constant(self, name: str, tensor: onnx.TensorProto) -> fx.Node:
        values = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        return self.graph.get_attr(self._keep(name, values))

    def _keep(self, name: str, values: Tensor) -> str:
        """Store a tensor under its name: floats as parameters, the rest as buffers."""
        owner: nn.Module = self.root
        *parts, last = (_identifier(part) for part in name.replace("/", ".").split("."))
        folders: list[str] = []
        for folder in parts:
            while not isinstance(getattr(owner, folder, owner), nn.Module):
                folder += "_"
            if not hasattr(owner, folder):
                owner.add_module(folder, nn.Module())
            owner = owner.get_submodule(folder)
            folders.append(folder)
        while hasattr(owner, last):
            last += "_"
        if values.dtype == torch.float32 and values.ndim:
            owner.register_parameter(last, nn.Parameter(values))
        else:
            owner.register_buffer(last, values)
        return ".".join([*folders, last])

    def _operator(self, entry: RegionEntry) -> None:
        require_same_scales(entry, self.tensors, self.source)
        lost = next((c.output for c in entry.calls if not self._output_of(c)), None)
        if lost is not None:
            raise ExportError(
                f"{self.source}: region '{entry.id}' computes tensor '{lost}', and no node of the "
                "graph does; it was removed or renamed: load the file as export_onnx() wrote it"
            )
        product, target = product_of(entry), target_of(entry, self.manifest.target)
        owner = _owner(entry)
        if owner not in self.arrays:
            self.arrays[owner] = self._array(entry, product, target)
        array, parameter = self.arrays[owner]
        region = Region(
            name=entry.id,
            operator=entry.kind,
            weight=parameter,
            weight_shape=entry.weight.shape,
            bias=entry.bias,
            index=len(self.paths),
            calls=len(entry.calls),
        )
        op = LoadedOp(array, product, target, region)
        for converter, known in ((op.dac, entry.dac), (op.adc, entry.adc)):
            if known is not None and known.range is not None:
                converter.calibrate(*torch.tensor(known.range))
        op.refresh()
        op.mode = _MODES[entry.noise.exported]
        self.paths[entry.id] = f"analog_{len(self.paths)}"
        self.root.add_module(self.paths[entry.id], op)

    def _array(
        self, entry: RegionEntry, product: Product, target: spec.Target
    ) -> tuple[WeightArray, str]:
        stored = find_weight(entry.weight, self.tensors)
        if stored is None:
            raise ExportError(
                f"{self.source}: region '{entry.id}' has lost its tensor "
                f"'{entry.weight.initializer}'; load the file as export_onnx() wrote it"
            )
        raw = numpy_helper.to_array(stored)
        decoded = decode(entry.weight, raw, self.source)
        require_unchanged(entry.weight, raw, self.source)
        weight = nn.Parameter(torch.from_numpy(decoded.copy()))
        array = WeightArray(weight, product, target, entry.id, entry.weight.folded)
        if entry.weight.range is not None:
            array.range.copy_(torch.tensor(entry.weight.range))
            array.refresh()
        if entry.noise.exported == "programmed":
            chip = raw.swapaxes(-1, -2) if entry.weight.transposed else raw
            factors = None
            if entry.correction is not None:
                factors = torch.tensor(entry.correction)
                factors = product.output_channels(factors) if factors.ndim else factors
            array.hold(torch.from_numpy(np.array(chip)), factors, None)
        path = self._keep(entry.weight.parameter, weight.detach())
        return array, path


class LoadedOp(AnalogOp):
    """An operator whose product the file describes, which may not fit what reaches it."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As ``AnalogOp.forward``.

        Raises:
            ExportError: the product cannot have these inputs.
        """
        try:
            return super().forward(*args, **kwargs)
        except Exception as cause:
            raise_unfit(cause, f"region '{self.region.name}'", args[:1])


def _owner(entry: RegionEntry) -> str:
    return entry.shares_array_with or entry.id


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    return list(value) if attribute.type == onnx.AttributeProto.INTS else value


def _item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "_"
