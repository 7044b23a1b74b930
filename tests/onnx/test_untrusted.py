"""An ONNX file from a stranger: what is wrong has a name, and nothing of it runs without leave."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, export_onnx, load_onnx, read_regions
from analogize.errors import ExportError
from analogize.onnx.manifest import MANIFEST_KEY

X = torch.linspace(-1, 1, 2 * 2 * 4 * 4).view(2, 2, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.digital = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.digital(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = analogize(Net().eval(), "pcm_8bit", [X], digital=["digital"])
    export_onnx(model, file, X, dynamic_batch=False)
    return file.read_bytes()


Change = Callable[[onnx.ModelProto], None]


def manifest(change: Callable[[Any], None]) -> Change:
    """A change of the manifest's first region."""

    def apply(model: onnx.ModelProto) -> None:
        (prop,) = (p for p in model.metadata_props if p.key == MANIFEST_KEY)
        content = json.loads(prop.value)
        change(content["regions"][0])
        prop.value = json.dumps(content)

    return apply


def attribute(key: str, value: Any) -> Change:
    return manifest(lambda region: region["attributes"].update({key: value}))


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == kind)


def circle(model: onnx.ModelProto) -> None:
    relu = node(model, "Relu")
    relu.input[0] = relu.output[0]


def long_circle(model: onnx.ModelProto) -> None:
    conv = next(n for n in model.graph.node if "digital.weight" in n.input)
    conv.input[0] = node(model, "Relu").output[0]


def group(model: onnx.ModelProto) -> None:
    conv = next(n for n in model.graph.node if "digital.weight" in n.input)
    del conv.attribute[:]
    conv.attribute.append(onnx.helper.make_attribute("group", 0))


def short_data(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "digital.weight")
    tensor.raw_data = tensor.raw_data[:-4]


def outside(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "digital.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (circle, "is computed from itself"),
        (long_circle, "is computed from itself"),
        (group, "operator 'Conv' cannot run on "),
        (short_data, "tensor 'digital.weight' cannot be read"),
        (outside, "not a readable ONNX file"),
        (attribute("groups", 0), "region 'conv': its attribute groups is 0; it must divide 4"),
        (attribute("groups", 3), "region 'conv': its attribute groups is 3; it must divide 4"),
        (attribute("stride", [0, 1]), "its attribute stride is .* takes 1 or 2 numbers from 1"),
        (attribute("padding", [1, 1, 1]), "its attribute padding is .* numbers from 0"),
        (manifest(lambda r: r.update(kind="conv3d")), "those of a conv3d have 5 dimensions"),
        (manifest(lambda r: r.update(kind="linear")), "those of a linear have 1 or 2 dimensions"),
        (manifest(lambda r: r["weight"].update(shape=[4, 1, 1, 9])), "has shape .* manifest says"),
        (manifest(lambda r: r["weight"].update(bits=-3)), "region 'conv' cannot be read"),
        (manifest(lambda r: r["weight"].update(scale=[1.0, 2.0])), "region 'conv' cannot be read"),
        (manifest(lambda r: r["dac"].update(range=[1.0, -1.0])), "region 'conv'"),
    ],
)
def test_what_does_not_fit_is_named(
    exported: bytes, tmp_path: Path, change: Change, message: str
) -> None:
    model = onnx.load_model_from_string(exported)
    change(model)
    file = tmp_path / "changed.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=message) as caught, torch.no_grad():
        load_onnx(file)(X)
    assert "operator" in message or str(caught.value).startswith(str(file))


def test_a_name_that_is_no_text_is_refused(exported: bytes, tmp_path: Path) -> None:
    file = tmp_path / "changed.onnx"
    file.write_bytes(exported.replace(b"digital.weight", b"digital.weigh\xff"))
    for read in (read_regions, load_onnx):
        with pytest.raises(ExportError, match=r"the name b'digital.weigh\\xff' is not UTF-8 text"):
            read(file)


def test_an_unknown_name_of_a_module_is_taken(exported: bytes, tmp_path: Path) -> None:
    """Names that torch's modules use themselves, or that are no names in Python."""
    expected = tmp_path / "model.onnx"
    expected.write_bytes(exported)
    with torch.no_grad():
        wanted = load_onnx(expected)(X)
    for odd in (b"forward/weigh.", b"digital..weigh", b"'<\"\n>..weight.", b"//////weights/"):
        file = tmp_path / "changed.onnx"
        assert len(odd) == len(b"digital.weight")
        file.write_bytes(exported.replace(b"digital.weight", odd))
        with torch.no_grad():
            assert load_onnx(file)(X).equal(wanted)


def test_a_function_runs_only_with_leave(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"stranger_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text("def f(w, low, high, g):\n    return w * 0 + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"{module}:f"

    def change(region: Any) -> None:
        region["noise"]["models"] = [{"model": "custom", "function": name}]
        region["noise"].update(sigma=[None], exported="runtime")

    model = onnx.load_model_from_string(exported)
    manifest(change)(model)
    file = tmp_path / "changed.onnx"
    file.write_bytes(model.SerializeToString())
    for leave in (False, [], ["another:f"]):
        with pytest.raises(ExportError, match=rf"region 'conv': '{name}' .*allow_functions=\['"):
            load_onnx(file, allow_functions=leave)
    assert module not in sys.modules
    assert [r.id for r in read_regions(file)] == ["conv", "fc"]
    with torch.no_grad():
        assert load_onnx(file, allow_functions=[name])(X).isfinite().all()
    assert module in sys.modules
