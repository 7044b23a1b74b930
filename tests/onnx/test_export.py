"""Exported files compute what torch computes, and say what they promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from jsonschema import Draft202012Validator
from torch import Tensor, nn

from analogize import analogize, noise_mode, program, regions
from analogize.demo.models import DigitsNet
from analogize.errors import CalibrationError, ChipError, ExportError
from analogize.model.module import AnalogModule
from analogize.onnx.manifest import MANIFEST_KEY, Manifest, json_schema
from analogize.onnx.reading.load import load_onnx
from analogize.onnx.reading.read import read_regions
from analogize.onnx.writing.export import export_onnx
from analogize.targets import load_target
from analogize.targets.spec import Target


class Mixed(nn.Module):
    """BatchNorm, groups, dilation, a residual, a transposed convolution and shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, groups=2)
        self.head = nn.Linear(15, 15)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.up(torch.relu(x + self.grouped(x)))
        return self.head(self.head(x[..., :15]))


def digits(target: str | Target = "pcm_8bit") -> AnalogModule:
    torch.manual_seed(0)
    return analogize(DigitsNet(), target, [torch.rand(16, 1, 8, 8)]).eval()


def mixed(target: str | Target = "pcm_8bit") -> AnalogModule:
    torch.manual_seed(1)
    model, x = Mixed(), torch.randn(16, 2, 7, 7)
    model.norm(torch.randn(64, 4, 5, 5) * 2 + 1)
    return analogize(model, target, [x]).eval()


def changed(target: str, **parts: dict[str, Any]) -> Target:
    fields = load_target(target).model_dump()
    for part, values in parts.items():
        fields[part] = fields[part] | values
    return Target.model_validate(fields)


def outputs(path: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    result = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert isinstance(result, np.ndarray)
    return result


def clean(model: AnalogModule, x: Tensor) -> np.ndarray:
    with torch.no_grad(), noise_mode(model, "off"):
        result: np.ndarray = model(x).numpy()
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


TARGETS = {
    "4bit": load_target("pcm_4bit"),
    "8bit": load_target("pcm_8bit"),
    "affine": changed("pcm_8bit", weights={"grid": "affine", "range": {"kind": "percentile"}}),
    "channel": changed("pcm_8bit", weights={"granularity": "channel"}),
    "channel affine": changed(
        "pcm_4bit",
        weights={"granularity": "channel", "grid": "affine", "range": {"kind": "percentile"}},
    ),
    "6 bits": changed("pcm_8bit", weights={"bits": 6}, dac={"bits": 6}, adc={"bits": 5}),
    "symmetric converters": changed(
        "pcm_8bit", dac={"grid": "symmetric"}, adc={"grid": "symmetric", "bits": 10}
    ),
    # Symmetric DACs behind a Relu, whose zero point is not 0.
    "4 bits symmetric": changed("pcm_8bit", dac={"grid": "symmetric", "bits": 4}),
    "12 bits symmetric": changed("pcm_8bit", dac={"grid": "symmetric", "bits": 12}),
    "no adc": changed("pcm_8bit", adc={"bits": None}),
    "a range a column": changed(
        "pcm_8bit",
        weights={"granularity": "channel"},
        adc={"granularity": "channel", "range": {"kind": "minmax"}},
    ),
    "a range a vector": changed(
        "pcm_8bit", weights={"granularity": "channel"}, dac={"range": {"kind": "vector"}}
    ),
    "a symmetric range a vector": changed(
        "pcm_8bit",
        dac={"range": {"kind": "vector"}, "grid": "symmetric"},
        adc={"granularity": "channel", "range": {"kind": "mse"}, "grid": "symmetric"},
    ),
    "bound": changed(
        "pcm_8bit",
        weights={"granularity": "channel"},
        adc={"range": {"kind": "bound", "bound": 10.0}, "grid": "symmetric"},
    ),
}


# Both forms share every operator, so the functions form needs fewer targets.
CASES = [
    *((target, "flat") for target in TARGETS),
    ("4bit", "functions"),
    ("channel affine", "functions"),
    ("a range a column", "functions"),
    ("a range a vector", "functions"),
]


@pytest.mark.parametrize(("target", "form"), CASES)
def test_outputs_equal_torch_bit_for_bit(target: str, form: Any, path: Path) -> None:
    model = mixed(TARGETS[target])
    exported = export_onnx(model, path, torch.randn(1, 2, 7, 7), form)
    assert exported.numerics.exact, exported.numerics.reasons
    onnx.checker.check_model(str(path), full_check=True)
    for batch in (1, 5):
        x = torch.randn(batch, 2, 7, 7)
        assert np.array_equal(outputs(path, x), clean(model, x))


@pytest.mark.parametrize("form", ["flat", "functions"])
def test_integer_kernels_are_exact_too(form: Any, path: Path) -> None:
    model, x = digits(), torch.rand(9, 1, 8, 8)
    exported = export_onnx(model, path, x, form, arithmetic="integer")
    assert exported.numerics.exact
    assert np.array_equal(outputs(path, x), clean(model, x))
    nodes = [*onnx.load(path).graph.node, *(n for f in onnx.load(path).functions for n in f.node)]
    assert {"ConvInteger", "MatMulInteger"} <= {n.op_type for n in nodes}


def test_qdq_arithmetic_promises_nothing_and_stays_close(path: Path) -> None:
    model, x = digits(), torch.rand(64, 1, 8, 8)
    exported = export_onnx(model, path, x, arithmetic="qdq")
    assert not exported.numerics.exact
    # A flip is one code of some ADC; the last one's step bounds what a flip there changes.
    step = read_regions(path)[-1].entry.adc.scale  # type: ignore[union-attr]
    assert np.abs(outputs(path, x) - clean(model, x)).max() <= 8 * step


@pytest.mark.parametrize("name", ["ideal", "paper_resnet32"])
def test_stages_without_bits_agree_to_float_tolerance(name: str, path: Path) -> None:
    model, x = digits(name), torch.rand(4, 1, 8, 8)
    exported = export_onnx(model, path, x)
    if name == "ideal":
        assert not exported.numerics.exact
        assert np.allclose(outputs(path, x), clean(model, x), atol=1e-5)


def test_codes_are_stored_narrowly(path: Path) -> None:
    sizes = {}
    for weights in ("auto", "int8", "float"):
        sizes[weights] = export_onnx(
            digits("pcm_4bit"),
            path,
            torch.rand(1, 1, 8, 8),
            weights=weights,  # type: ignore[arg-type]
        ).size
        assert np.array_equal(
            outputs(path, x := torch.rand(3, 1, 8, 8)), clean(digits("pcm_4bit"), x)
        )
    parameters = sum(p.numel() for p in DigitsNet().parameters())
    # Per weight: half a byte, one, four.
    assert sizes["int8"] - sizes["auto"] == pytest.approx(parameters / 2, rel=0.05)
    assert sizes["float"] - sizes["int8"] == pytest.approx(parameters * 3, rel=0.05)


def test_a_programmed_chip_exports_as_its_weights(path: Path) -> None:
    model, x = digits(), torch.rand(4, 1, 8, 8)
    export_onnx(model, path, x, noise=3)
    by_seed = outputs(path, x)
    program(model, 3)
    export_onnx(model, path, x, noise="programmed")
    assert np.array_equal(outputs(path, x), by_seed)
    with torch.no_grad():
        expected = model(x).numpy()
    # Float sums in another order may cross the edge of a code; most do not.
    assert np.mean(np.isclose(by_seed, expected, atol=1e-6)) > 0.9


def test_runtime_noise_is_fresh_and_has_its_sigma(path: Path) -> None:
    target = changed("pcm_8bit", dac={"bits": None}, adc={"bits": None})
    torch.manual_seed(0)
    model = analogize(nn.Sequential(nn.Linear(64, 512, bias=False)), target)
    export_onnx(model, path, torch.eye(64), noise="runtime")
    session = onnxruntime.InferenceSession(str(path))
    name, eye = session.get_inputs()[0].name, torch.eye(64).numpy()
    first, second = (np.asarray(session.run(None, {name: eye})[0]) for _ in range(2))
    noise = first - clean(model, torch.eye(64))
    entry = read_regions(path)[0].entry
    assert entry is not None
    # 32768 draws: the sample deviation has a relative error of 1/sqrt(2n) = 0.4 %; five of them.
    assert noise.std() == pytest.approx(entry.noise.sigma[0], rel=0.02)
    assert not np.array_equal(first, second)


def test_the_manifest_describes_every_region_and_fits_its_schema(path: Path) -> None:
    model = mixed()
    manifest = export_onnx(model, path, torch.randn(2, 2, 7, 7)).manifest
    text = {p.key: p.value for p in onnx.load(path).metadata_props}[MANIFEST_KEY]
    Draft202012Validator.check_schema(json_schema())
    Draft202012Validator(json_schema()).validate(json.loads(text))
    assert Manifest.model_validate_json(text) == manifest
    assert [r.id for r in manifest.regions] == [r.name for r in regions(model)]
    head = manifest.regions[-1]
    assert [c.node for c in head.calls] == ["head/mac", "head@2/mac"]


def test_every_node_is_annotated_and_nothing_local_leaks(path: Path) -> None:
    model = analogize(DigitsNet(), "pcm_8bit", [torch.rand(8, 1, 8, 8)], digital=["fc1"])
    export_onnx(model, path, torch.rand(1, 1, 8, 8))
    for node in onnx.load(path).graph.node:
        keys = {p.key: p.value for p in node.metadata_props}
        assert keys["layer_ann"].startswith(("analog/", "digital"))
        assert "ai.analogize.region.role" in keys
    annotated = [
        p.value
        for n in onnx.load(path).graph.node
        for p in n.metadata_props
        if p.key == "ai.analogize.digital.reason"
    ]
    assert "fc1: kept digital: matches 'fc1'" in annotated
    content = path.read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content
    assert str(Path.home()).encode() + b"/" not in content


def test_weights_beyond_the_limit_are_external(path: Path) -> None:
    model, x = digits(), torch.rand(3, 1, 8, 8)
    exported = export_onnx(model, path, x, external_above=10_000)
    assert [f.name for f in exported.files] == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 60_000
    assert np.array_equal(outputs(path, x), clean(model, x))
    assert all(r.missing == () for r in read_regions(path))


def test_bad_arguments_are_refused_and_leave_no_file(path: Path, tmp_path: Path) -> None:
    model, x = digits(), torch.rand(1, 1, 8, 8)
    for arguments, words in (
        ({"form": "nested"}, "form='nested'"),
        ({"noise": "loud"}, "noise='loud'"),
        ({"opset": 12}, "opset 12"),
        ({"arithmetic": "bf16"}, "arithmetic='bf16'"),
    ):
        with pytest.raises(ExportError, match=words):
            export_onnx(model, path, x, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ChipError, match="no chip"):
        export_onnx(model, path, x, noise="programmed")
    with pytest.raises(ExportError, match="does not exist"):
        export_onnx(model, tmp_path / "nowhere" / "model.onnx", x)
    with pytest.raises(ExportError, match="no analog regions"):
        export_onnx(DigitsNet(), path, x)
    with pytest.raises(CalibrationError, match="without a range"):
        export_onnx(analogize(DigitsNet(), "pcm_8bit"), path, x)
    assert list(tmp_path.iterdir()) == []


def test_foreign_and_truncated_files_are_refused(path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        read_regions(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="ONNX"):
        read_regions(path)
    export_onnx(digits(), path, torch.rand(1, 1, 8, 8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ExportError, match="truncated"):
        read_regions(path)


def test_a_manifest_that_disagrees_is_refused(path: Path) -> None:
    export_onnx(digits(), path, torch.rand(1, 1, 8, 8))
    written = path.read_bytes()

    def refused(change: Callable[[onnx.ModelProto], None], words: str, *, load: bool) -> None:
        model = onnx.load_from_string(written)
        change(model)
        onnx.save(model, path)
        for read in (load_onnx,) if load else (load_onnx, read_regions):
            with pytest.raises(ExportError, match=words):
                read(path)

    def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
        return next(t for t in model.graph.initializer if t.name == name)

    def other_shape(model: onnx.ModelProto) -> None:
        for p in model.metadata_props:
            p.value = p.value.replace('"shape":[16,1,3,3]', '"shape":[16,1,5,5]')

    def other_weight(model: onnx.ModelProto) -> None:
        codes = bytearray(tensor(model, "conv1/weight").raw_data)
        codes[0] = 129 if codes[0] == 128 else 128
        tensor(model, "conv1/weight").raw_data = bytes(codes)

    def other_scale(model: onnx.ModelProto) -> None:
        tensor(model, "fc1/dac/scale").raw_data = np.float32(3).tobytes()

    def removed(model: onnx.ModelProto) -> None:
        last = next(n for n in model.graph.node if n.name == "conv2/adc/rescale")
        for node in model.graph.node:
            node.input[:] = [last.input[0] if i == last.output[0] else i for i in node.input]
        model.graph.node.remove(last)

    refused(other_shape, "conv1/weight.*disagree", load=False)
    refused(other_weight, "conv1/weight.*digest", load=False)
    refused(other_scale, "fc1/dac/scale.*disagree", load=False)
    refused(removed, "region 'conv2'.*removed", load=True)
