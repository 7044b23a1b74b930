"""What other tools leave of a file: run each, count the regions found, compare the outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import onnxscript.optimizer
import pytest
import torch
from onnx import version_converter

from analogize import analogize
from analogize.export import export_onnx
from analogize.models import DigitsNet
from analogize.onnx.read import read_regions

REGIONS = ("conv1", "conv2", "fc1", "fc2")


def _ir(source: Path, result: Path) -> None:
    onnx_ir.save(onnx_ir.load(source), result)


def _onnxscript(source: Path, result: Path) -> None:
    model = onnx_ir.load(source)
    onnxscript.optimizer.optimize(model)
    onnx_ir.save(model, result)


def _onnxruntime(source: Path, result: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(result)
    onnxruntime.InferenceSession(str(source), options)


def _onnxsim(source: Path, result: Path) -> None:
    onnxsim = pytest.importorskip("onnxsim")
    simplified, equal = onnxsim.simplify(onnx.load(source))
    assert equal
    onnx.save(simplified, result)


def _onnxslim(source: Path, result: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    onnx.save(onnxslim.slim(onnx.load(source)), result)


def _version_converter(source: Path, result: Path) -> None:
    onnx.save(version_converter.convert_version(onnx.load(source), 22), result)


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "onnx-ir": _ir,
    "onnxscript": _onnxscript,
    "onnxruntime": _onnxruntime,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "version_converter": _version_converter,
}


# The strongest sign that is left of a region: (flat, functions).
FOUND_BY = {
    "onnx-ir": ("node metadata", "node metadata"),
    "onnxscript": ("node metadata", "node metadata"),
    "onnxruntime": ("node name", "weight name"),
    "onnxsim": ("node name", "call node"),
    "onnxslim": ("node name", "call node"),
    "version_converter": ("node name", "call node"),
}


@pytest.fixture(scope="module", params=["flat", "functions"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    x = torch.rand(8, 1, 8, 8)
    analog = analogize(DigitsNet().eval(), "pcm_4bit", [x])
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    export_onnx(analog, path, x, request.param)
    return path


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    result = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", TOOLS)
def test_regions_survive(exported: Path, tool: str, tmp_path: Path) -> None:
    result = tmp_path / "result.onnx"
    TOOLS[tool](exported, result)
    found = read_regions(result)
    assert tuple(r.id for r in found) == REGIONS
    assert all(r.missing == () for r in found)
    form = exported.parent.name.removesuffix("0")
    assert {r.found_by for r in found} == {FOUND_BY[tool][form == "functions"]}
    if (tool, form) == ("version_converter", "functions"):
        # It drops the functions and leaves their calls (onnx/onnx#4370): readable, not runnable.
        assert not onnx.load(result).functions
        return
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    assert np.array_equal(_run(result, x), _run(exported, x))
