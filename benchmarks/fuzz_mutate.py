"""Mutations for fuzz.py: of bytes, of numbers and words in text, of fields in ONNX graphs."""

from __future__ import annotations

import random
import re
from typing import Any

import onnx
from fuzz_readers import Reader

_HUGE = ("99999999999999999999", "0x" + "f" * 5000)
_NUMBERS = tuple(text.encode() for text in ("0", "-1", "1e999", ".nan", "NaN", "1e-320", *_HUGE))
_WORDS = (
    *(text.encode() for text in ("null", "true", "[]", "{}", '""', "*a", "&a ", "\0", "\u2028")),
    b"\xff\xfe",
    b"!!python/name:os.system ",
)
_INTEGERS = (0, -1, 1, 3, 2**31 - 1, 2**40, -(2**40))


def mutate(reader: Reader, draw: random.Random) -> bytes:
    """One of the reader's good files, changed in one to four places."""
    good = draw.choice(reader.samples)
    if reader.kind == "onnx" and draw.random() < 0.8:
        return _graph(good, draw)
    for _ in range(draw.randint(1, 4)):
        is_text = reader.kind == "text" or (reader.kind == "mixed" and draw.random() < 0.5)
        good = (_text if is_text and draw.random() < 0.7 else _bytes)(good, draw)
    return good


def _bytes(good: bytes, draw: random.Random) -> bytes:
    where, size = draw.randrange(len(good) + 1), draw.choice((1, 1, 2, 8, 100))
    match draw.randrange(6):
        case 0:
            return good[:where]
        case 1:
            return good[:where] + draw.randbytes(size) + good[where + size :]
        case 2:
            return good[:where] + good[where + size :]
        case 3:
            return good[:where] + good[where : where + size] * 3 + good[where + size :]
        case 4:
            return good[:where] + draw.choice(_WORDS + _NUMBERS) + good[where:]
        case _:
            flipped = bytes([good[where] ^ 1 << draw.randrange(8)]) if where < len(good) else b""
            return good[:where] + flipped + good[where + 1 :]


def _text(good: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        lines = good.split(b"\n")
        where, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        if draw.random() < 0.5:
            lines.insert(where, lines[other])
        else:
            lines[where] = draw.choice((b"", b"  " + lines[where], lines[other]))
        return b"\n".join(lines)
    tokens = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?|\w+", good))
    if not tokens:
        return _bytes(good, draw)
    found, other = draw.choice(tokens), draw.choice(tokens)
    put = draw.choice((*_NUMBERS, *_WORDS, other[0], other[0], other[0]))
    return good[: found.start()] + put + good[found.end() :]


def _graph(good: bytes, draw: random.Random) -> bytes:
    model = onnx.load_model_from_string(good)
    for _ in range(draw.randint(1, 3)):
        draw.choice((_manifest, _manifest, _attribute, _wire, _tensor, _name))(model, draw)
    data = model.SerializeToString()
    return _bytes(data, draw) if draw.random() < 0.1 else data


def _manifest(model: onnx.ModelProto, draw: random.Random) -> None:
    prop = draw.choice(model.metadata_props)
    changed = _text(prop.value.encode(), draw)
    prop.value = changed.decode("utf-8", "replace")


def _attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    nodes = [n for n in model.graph.node if n.attribute]
    if not nodes:
        return
    attribute = draw.choice(draw.choice(nodes).attribute)
    match draw.randrange(4):
        case 0:
            attribute.i = draw.choice(_INTEGERS)
        case 1 if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_INTEGERS)
        case 2 if attribute.ints:
            del attribute.ints[-1]
        case _:
            attribute.name = draw.choice(("group", "strides", "axis", "nothing", attribute.name))


def _wire(model: onnx.ModelProto, draw: random.Random) -> None:
    nodes = model.graph.node
    node = draw.choice([n for n in nodes if n.input])
    names = [o for n in nodes for o in n.output] + [t.name for t in model.graph.initializer]
    match draw.randrange(4):
        case 0 | 1:
            node.input[draw.randrange(len(node.input))] = draw.choice([*names, "", "nowhere"])
        case 2:
            node.op_type = draw.choice(
                ("Conv", "Gemm", "MatMul", "Reshape", "Loop", "Slice", "Add")
            )
        case _:
            nodes.remove(node)


def _tensor(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor: Any = draw.choice(model.graph.initializer)
    match draw.randrange(4):
        case 0 if tensor.dims:
            tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(_INTEGERS)
        case 1:
            tensor.raw_data = _bytes(tensor.raw_data, draw)
        case 2:
            tensor.data_type = draw.randrange(30)
        case _:
            tensor.data_location = 1
            tensor.external_data.add(key="location", value=draw.choice(("../x", "/etc/passwd")))


def _name(model: onnx.ModelProto, draw: random.Random) -> None:
    things = [*model.graph.node, *model.graph.initializer, *model.graph.output, *model.graph.input]
    draw.choice(things).name = draw.choice(("", ".", "/", "forward.x", "a'b\"<c>\n", "é/²", "conv"))
