"""Positional and named arguments together: rewritten, calibrated, saved and exported with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analogize import Target, analogize, export_onnx, load, program, save, summary


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y * mask


def test_positional_and_named_arguments_together(
    quantized: Callable[..., Target], tmp_path: Path
) -> None:
    model, x, mask = Masked(), torch.randn(5, 4), torch.ones(5, 1)
    both = ((x,), {"mask": mask})
    analog = analogize(model, quantized(), [[both, None]], example_inputs=both).eval()
    assert summary(analog).converted_share == 1
    save(analog, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", Masked())
    assert torch.equal(loaded(x, mask=mask), analog(x, mask=mask))


def test_a_programmed_chip_that_is_not_exported_is_told(
    quantized: Callable[..., Target], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(5, 4)
    analog = analogize(nn.Linear(4, 3), quantized(eta=0.1), [x]).eval()
    export_onnx(analog, tmp_path / "model.onnx", x)
    assert "clean weights" not in caplog.text
    program(analog, 0)
    export_onnx(analog, tmp_path / "model.onnx", x, noise="programmed")
    assert "clean weights" not in caplog.text
    export_onnx(analog, tmp_path / "model.onnx", x)
    assert "clean weights" in caplog.text
