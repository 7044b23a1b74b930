"""Read the analog regions of a file, also after other tools have been over it.

The manifest says what the regions are. Where each one is in the graph is found by the first of:

    1. node metadata             survive onnx-ir and onnxscript
    2. a call node of its name   the functions form
    3. a node name's prefix      survives onnxruntime's optimizer, onnxsim, onnxslim
    4. the weight tensor's name

A file without manifest still gives its regions by these signs, without ranges, noise and tiles.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from analogize.errors import ExportError
from analogize.onnx.manifest import DOMAIN, REGION_KEY, Manifest, RegionEntry, parse
from analogize.onnx.reading.decode import (
    decode,
    find_weight,
    require_same_scales,
    require_unchanged,
)
from analogize.onnx.reading.trust import reading

Sign = Literal["node metadata", "call node", "node name", "weight name"]
_NAME = re.compile(r"^(?P<id>.+?)(?:@\d+)?/(?:dac|weight|noise|mac|adc|sum)(?:/.*)?$")
_FOLDED = "/weight/dequantize"


@dataclass(frozen=True)
class OnnxRegion:
    """One analog region of a file.

    Attributes:
        id: its name.
        entry: what the manifest says of it: kind, DAC, weight range and grid, ADC, noise, tiles;
            None without manifest.
        found_by: the strongest sign of it in the graph, or None if the graph has lost it.
        nodes: names of its nodes, as far as they are still known.
        weight: its weights in weight units and the parameter's shape; with a programmed chip, that
            chip's; None where the tensor is gone.
        missing: what could not be found: ``"manifest"``, ``"node"``, ``"weight"``.
    """

    id: str
    entry: RegionEntry | None
    found_by: Sign | None
    nodes: tuple[str, ...]
    weight: npt.NDArray[np.float32] | None
    missing: tuple[str, ...]


def read_regions(path: str | os.PathLike[str]) -> tuple[OnnxRegion, ...]:
    """The analog regions of an ONNX file, in graph order.

    Raises:
        ExportError: no ONNX file, one without any analog region, or one whose manifest disagrees
            with its tensors.
    """
    model = load_model(path)
    manifest = read_manifest(model, str(path))
    signs = _signs(model)
    tensors = {t.name: t for t in model.graph.initializer}
    if manifest is None:
        found = [
            OnnxRegion(name, None, by, tuple(nodes), None, ("manifest",))
            for name, (by, nodes) in signs.items()
        ]
    else:
        found = [_checked_region(r, signs, tensors, str(path)) for r in manifest.regions]
    if not found:
        raise ExportError(
            f"{path}: has no analog region: neither a manifest ({DOMAIN}.manifest) nor nodes of "
            "analogize's; was it written by export_onnx()?"
        )
    return tuple(found)


def load_model(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse a file, external weights included.

    Raises:
        ExportError: it cannot be read, is truncated, or is not ONNX.
    """
    try:
        model = onnx.load(os.fspath(path))
    except FileNotFoundError as error:
        raise ExportError(f"{path}: no such file; give an existing ONNX file") from error
    except Exception as error:
        raise ExportError(
            f"{path}: not a readable ONNX file ({type(error).__name__}: {error}); it may be "
            "truncated, of another format, or miss its external weights"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ExportError(f"{path}: holds no ONNX graph; it may be truncated or of another format")
    # protobuf hands out text that is not UTF-8 as bytes.
    foreign = next((name for name in _names(model) if not isinstance(name, str)), None)
    if foreign is not None:
        raise ExportError(
            f"{path}: the name {foreign!r} is not UTF-8 text; the file is damaged: export it again"
        )
    return model


def _names(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        yield from (text for p in node.metadata_props for text in (p.key, p.value))
    for value in (*graph.initializer, *graph.input, *graph.output):
        yield value.name
    yield from (text for p in model.metadata_props for text in (p.key, p.value))


def read_manifest(model: onnx.ModelProto, source: str) -> Manifest | None:
    """The manifest of a parsed file, or None.

    Raises:
        ExportError: it has one that cannot be read.
    """
    return parse({p.key: p.value for p in model.metadata_props}, source)


def _checked_region(
    entry: RegionEntry,
    signs: dict[str, tuple[Sign, list[str]]],
    tensors: dict[str, onnx.TensorProto],
    source: str,
) -> OnnxRegion:
    with reading(source, f"region '{entry.id}'"):
        return _region(entry, signs, tensors, source)


def _region(
    entry: RegionEntry,
    signs: dict[str, tuple[Sign, list[str]]],
    tensors: dict[str, onnx.TensorProto],
    source: str,
) -> OnnxRegion:
    require_same_scales(entry, tensors, source)
    by, nodes = signs.get(entry.id, (None, []))
    stored = find_weight(entry.weight, tensors)
    weight = None
    if stored is not None:
        raw = numpy_helper.to_array(stored)
        weight = decode(entry.weight, raw, source)
        require_unchanged(entry.weight, raw, source)
        by = by or "weight name"
    elif folded := tensors.get(entry.weight.initializer.removesuffix("/weight") + _FOLDED):
        # A tool has folded the dequantization: zero-centred codes, or weights where folded.
        as_floats = entry.weight.model_copy(update={"zero_point": None})
        weight = decode(as_floats, numpy_helper.to_array(folded), source)
    missing = (*(["node"] if by is None else []), *(["weight"] if weight is None else []))
    return OnnxRegion(entry.id, entry, by, tuple(nodes), weight, missing)


def _signs(model: onnx.ModelProto) -> dict[str, tuple[Sign, list[str]]]:
    """The strongest sign of each region, and its nodes."""
    found: dict[str, tuple[Sign, list[str]]] = {}
    order: tuple[Sign, ...] = ("node metadata", "call node", "node name", "weight name")
    for name, sign, node in _traces(model):
        known = found.setdefault(name, (sign, []))
        if order.index(sign) < order.index(known[0]):
            found[name] = known = sign, known[1]
        if node and node not in known[1]:
            known[1].append(node)
    return found


def _traces(model: onnx.ModelProto) -> Iterator[tuple[str, Sign, str]]:
    for node in model.graph.node:
        metadata = {p.key: p.value for p in node.metadata_props}
        if REGION_KEY in metadata:
            yield metadata[REGION_KEY], "node metadata", node.name
        elif node.domain == DOMAIN:
            yield re.sub(r"@\d+$", "", node.name), "call node", node.name
        elif match := _NAME.match(node.name):
            yield match["id"], "node name", node.name
    for tensor in model.graph.initializer:
        if tensor.name.endswith("/weight"):
            yield tensor.name.removesuffix("/weight"), "weight name", ""
