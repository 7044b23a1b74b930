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


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (torchvision.models.resnet18, (3, 32, 32)),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (3, 32, 32)),
    "vit": (_vit, (3, 16, 16)),
    "transformer": (Transformer, (6, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_both_forms(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, path = build(), tmp_path / "model.onnx"
    with torch.no_grad():
        model(torch.randn(32, *shape))
    analog = analogize(model.eval(), "pcm_8bit", [torch.randn(8, *shape)])
    x = torch.randn(5, *shape)
    with torch.no_grad(), noise_mode(analog, "off"):
        expected = analog(x).numpy()
    form: str
    for form in ("flat", "functions"):
        export_onnx(analog, path, x[:1], form)  # type: ignore[arg-type]
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path))
        actual = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        print(f"{name}, {form}: largest difference {np.abs(actual - expected).max():g}")
        # Means, softmax and the like are float32 sums, which a DAC absorbs except at the edge of
        # a code; a flip there moves a few of the last ADC's codes.
        assert np.mean(actual == expected) > 0.5
        assert len(read_regions(path)) == len(regions(analog))
        with torch.no_grad():
            assert np.mean(load_onnx(path)(x).numpy() == expected) > 0.5
