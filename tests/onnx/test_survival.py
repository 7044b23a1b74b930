"""What other tools leave of a file: run each, count the regions found, compare the outputs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import Tensor

from analogize import load_onnx, read_regions
from analogize.errors import ExportError

pytest.importorskip("onnxsim")
pytest.importorskip("onnxslim")
BENCHMARK: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[2] / "benchmarks" / "onnx_tools.py"), run_name="onnx_tools"
)

# The strongest sign that is left of a region: (flat, functions).
FOUND_BY = {
    "onnx-ir": ("node metadata", "node metadata"),
    "onnxscript": ("node metadata", "node metadata"),
    "onnxruntime": ("node name", "weight name"),
    "onnxsim": ("node name", "call node"),
    "onnxslim": ("node name", "call node"),
    "version_converter": ("node name", "call node"),
}
REGIONS = {"convolutional": 4, "transformer": 10}
CASES = [(name, form) for name in REGIONS for form in ("flat", "functions")]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Path, Tensor]:
    name, form = request.param
    path = tmp_path_factory.mktemp(name) / "model.onnx"
    return name, form, path, BENCHMARK["exported"](name, form, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", FOUND_BY)
def test_regions_survive(source: tuple[str, str, Path, Tensor], tool: str, tmp_path: Path) -> None:
    name, form, path, x = source
    result = tmp_path / "result.onnx"
    left = BENCHMARK["survival"](tool, path, result, x)
    assert left.regions == REGIONS[name]
    assert left.found == {FOUND_BY[tool][form == "functions"]: REGIONS[name]}
    assert left.missing == 0
    # The version converter drops the functions and leaves their calls (onnx/onnx#4370): its result
    # can be read and loaded, but onnxruntime does not run it.
    runs = (tool, form) != ("version_converter", "functions")
    assert left.difference == (0.0 if runs else None)
    # onnxruntime's optimizer moves and fuses the nodes around a DAC, so that load_onnx cannot tell
    # any more what enters it.
    assert left.loaded == (None if tool == "onnxruntime" else 0.0)


@pytest.mark.filterwarnings("ignore")
def test_what_is_lost_is_said(source: tuple[str, str, Path, Tensor], tmp_path: Path) -> None:
    _, _, path, _ = source
    result = tmp_path / "result.onnx"
    BENCHMARK["TOOLS"]["onnxruntime"](path, result)
    with pytest.raises(ExportError, match=r"nothing computes tensor .* load the file as"):
        load_onnx(result)
    model = onnx.load(path)
    lost = {"head/weight", "2/weight", "fc2/weight"}
    kept = [t for t in model.graph.initializer if t.name not in lost]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, result)
    last = read_regions(result)[-1]
    assert last.missing == ("weight",)
    with pytest.raises(ExportError, match="has lost its tensor"):
        load_onnx(result)
