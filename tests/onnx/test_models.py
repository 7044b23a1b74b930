"""Whole models in both forms: valid files, which onnxruntime runs and ``load_onnx`` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, export_onnx, load_onnx, noise_mode, read_regions, regions
from analogize.crossbar.chip import weight_of
from analogize.crossbar.ops import operators
from analogize.onnx.manifest import Manifest


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (self._split(product(y)) for product in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 32)
        self.blocks = nn.Sequential(Block(32, 4), Block(32, 4))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)).mean(1))


def _vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=10)
    nn.init.normal_(model.heads.head.weight)
    return model


def _mobilenet() -> nn.Module:
    # One block of every kind: without expansion, with a stride, with a residual connection.
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 320, 1, 2]]
    return torchvision.models.MobileNetV2(inverted_residual_setting=blocks)


# Model, shape of a sample, target, and the digital operators that keep it from being exact.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, set[str]]] = {
    "resnet18": (torchvision.models.resnet18, (3, 32, 32), "pcm_4bit", set()),
    "mobilenet_v2": (_mobilenet, (3, 8, 8), "pcm_8bit", set()),
    "vit": (_vit, (3, 16, 16), "pcm_8bit", {"Gelu", "LayerNormalization", "MatMul", "Softmax"}),
    "transformer": (
        Transformer,
        (6, 16),
        "pcm_8bit",
        {"Gelu", "LayerNormalization", "MatMul", "ReduceMean", "Softmax"},
    ),
}


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def _check_regions(analog: nn.Module, path: Path, manifest: Manifest, x: Tensor) -> None:
    """Every region that promises it gives torch's output, bit for bit, for its own input."""
    model = onnx.load(path)
    names = sorted({n for r in manifest.regions for c in r.calls for n in (c.input, c.output)})
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = _session(model)
    found = dict(
        zip(names, session.run(names, {session.get_inputs()[0].name: x.numpy()}), strict=True)
    )
    ops = {op.region.name: op for op in operators(analog)}
    for region in manifest.regions:
        assert region.exact
        op = ops[region.id]
        weight = weight_of(op)
        for call in region.calls:
            with torch.no_grad(), noise_mode(analog, "off"):
                expected = op(torch.from_numpy(found[call.input]), weight).numpy()
            assert np.array_equal(found[call.output], expected), region.id


@pytest.mark.parametrize("name", MODELS)
def test_both_forms(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape, target, inexact = MODELS[name]
    model, path = build(), tmp_path / "model.onnx"
    with torch.no_grad():
        model(torch.randn(32, *shape))
    analog = analogize(model.eval(), target, [torch.randn(8, *shape)])
    x = torch.randn(5, *shape)
    with torch.no_grad(), noise_mode(analog, "off"):
        expected = analog(x).numpy()
    form: str
    for form in ("flat", "functions"):
        exported = export_onnx(analog, path, x[:1], form)  # type: ignore[arg-type]
        onnx.checker.check_model(str(path), full_check=True)
        session = _session(onnx.load(path))
        actual = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        print(f"{name}, {form}: largest difference {np.abs(actual - expected).max():g}")
        with torch.no_grad():
            loaded = load_onnx(path)(x).numpy()
        promise = exported.numerics
        assert promise.exact == (not inexact)
        assert {reason.split()[2] for reason in promise.reasons} == inexact
        if promise.exact:
            assert np.array_equal(actual, expected)
            assert np.array_equal(loaded, expected)
        _check_regions(analog, path, exported.manifest, x)
        assert len(read_regions(path)) == len(regions(analog))
