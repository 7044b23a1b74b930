"""A file round-trips: the loaded module computes what the file does, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, noise_mode, regions, summary
from analogize.demo.models import DigitsNet
from analogize.errors import ExportError
from analogize.onnx.reading.load import load_onnx
from analogize.onnx.writing.export import export_onnx

IMAGE = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.nn.functional.max_pool2d(x, 2, padding=1, stride=1)
        return self.fc(torch.relu(self.fc(self.up(x[..., :8, :8]))))


@pytest.mark.parametrize(("target", "form"), [("pcm_4bit", "flat"), ("pcm_8bit", "functions")])
@pytest.mark.parametrize("kind", [DigitsNet, Residual])
def test_round_trip(kind: type[nn.Module], target: str, form: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, x = tmp_path / "model.onnx", torch.rand(5, 1, 8, 8)
    model = analogize(kind().eval(), target, [x])
    export_onnx(model, path, x, form)
    loaded = load_onnx(path)
    with torch.no_grad(), noise_mode(model, "off"):
        expected = model(x)
        assert torch.equal(loaded(x), expected)
        assert torch.equal(copy.deepcopy(loaded)(x), expected)
    assert [r.name for r in regions(loaded)] == [r.name for r in regions(model)]
    assert [r.weights for r in summary(loaded).rows] == [r.weights for r in summary(model).rows]


def test_a_chip_round_trips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, x = tmp_path / "model.onnx", torch.rand(5, 1, 8, 8)
    model = analogize(DigitsNet().eval(), "pcm_8bit", [x])
    export_onnx(model, path, x, noise=4)
    session = onnxruntime.InferenceSession(str(path))
    expected = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        actual = load_onnx(path)(x).numpy()
    # Float sums in another order may cross the edge of a code; most do not.
    assert np.mean(np.isclose(actual, expected, atol=1e-6)) > 0.9


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, x = tmp_path / "model.onnx", torch.rand(5, 1, 8, 8)
    export_onnx(analogize(DigitsNet().eval(), "pcm_8bit", [x]), path, x)
    model = onnx.load(path)
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type = "Softsign"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="Softsign"):
        load_onnx(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ExportError, match="no manifest"):
        load_onnx(path)


def test_what_does_not_fit_a_region_is_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(analogize(nn.Sequential(nn.Conv2d(2, 3, 3)), "pcm_4bit", [IMAGE]), path, IMAGE)
    loaded = load_onnx(path)
    told = r"the file's region '0' cannot run on \(.*\).*channels"
    with pytest.raises(ExportError, match=told), torch.no_grad():
        loaded(torch.randn(1, 5, 6, 6))
    assert loaded(IMAGE).shape == (1, 3, 4, 4)
