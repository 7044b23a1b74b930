"""Who reads the exported file: which form each runtime or converter loads, and what comes out.

    python benchmarks/onnx_consumers.py

A small convolutional network and a small transformer, 4 and 8 bits, in every way that export_onnx
writes them. What is not installed is left out: openvino, onnx2torch, onnxoptimizer,
onnxconverter-common.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx_tools import NETWORKS
from rich.console import Console
from rich.table import Table

from analogize import analogize, export_onnx, noise_mode

Run = Callable[[Path, np.ndarray], np.ndarray]

WAYS: dict[str, dict[str, Any]] = {
    "flat": {},
    "functions": {"form": "functions"},
    "weights='int8'": {"weights": "int8"},
    "weights='float'": {"weights": "float"},
    "opset=18": {"opset": 18},
    "plain, opset 18": {"arithmetic": "plain", "opset": 18},
}


def in_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    """Microsoft's runtime, on the CPU."""
    session = onnxruntime.InferenceSession(str(path))
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return found


def in_openvino(path: Path, x: np.ndarray) -> np.ndarray:
    """Intel's runtime, on the CPU, in float32."""
    import openvino

    core = openvino.Core()
    model = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: np.ndarray = model([x])[0]
    return found


def in_onnx2torch(path: Path, x: np.ndarray) -> np.ndarray:
    """A converter to torch modules."""
    import onnx2torch

    with torch.no_grad():
        found: np.ndarray = onnx2torch.convert(str(path))(torch.from_numpy(x)).numpy()
    return found


def in_reference(path: Path, x: np.ndarray) -> np.ndarray:
    """Onnx's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    found: np.ndarray = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})[0]
    return found


def after_onnxoptimizer(path: Path, x: np.ndarray) -> np.ndarray:
    """The passes of onnxoptimizer, then onnxruntime."""
    import onnxoptimizer

    return _rewritten(path, x, onnxoptimizer.optimize)


def after_float16(path: Path, x: np.ndarray) -> np.ndarray:
    """Half precision inside, float32 outside, then onnxruntime."""
    from onnxconverter_common import float16

    return _rewritten(path, x, lambda m: float16.convert_float_to_float16(m, keep_io_types=True))


def _rewritten(path: Path, x: np.ndarray, rewrite: Callable[[Any], Any]) -> np.ndarray:
    result = path.with_suffix(".rewritten.onnx")
    onnx.save(rewrite(onnx.load(path)), result)
    return in_onnxruntime(result, x)


CONSUMERS: dict[str, tuple[str, Run]] = {
    "onnxruntime": ("onnxruntime", in_onnxruntime),
    "onnx reference": ("onnx", in_reference),
    "OpenVINO": ("openvino", in_openvino),
    "onnx2torch": ("onnx2torch", in_onnx2torch),
    "onnxoptimizer": ("onnxoptimizer", after_onnxoptimizer),
    "float16": ("onnxconverter_common", after_float16),
}


def main() -> None:
    """Write every file, give it to everyone, print who could do what with it."""
    warnings.simplefilter("ignore")
    for kind in NETWORKS:
        for target in ("pcm_4bit", "pcm_8bit"):
            table = Table(title=f"{kind}, {target}: largest difference over the largest output")
            for word in ("consumer", *WAYS):
                table.add_column(word)
            rows = answers(kind, target)
            for name, cells in rows.items():
                table.add_row(name, *cells)
            Console(width=160).print(table)


def answers(kind: str, target: str) -> dict[str, list[str]]:
    """A row for every consumer that is installed."""
    torch.manual_seed(0)
    build, shape, _ = NETWORKS[kind]
    sample = torch.rand(8, *shape)
    model = analogize(build().eval(), target, calibration=[sample]).eval()
    with torch.no_grad(), noise_mode(model, "off"):
        expected = model(sample).numpy()
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, options in enumerate(WAYS.values()):
            path = Path(folder) / f"{number}.onnx"
            export_onnx(model, path, sample, **options)
            for name, (package, run) in CONSUMERS.items():
                if find_spec(package) is not None:
                    found.setdefault(name, []).append(answer(run, path, sample.numpy(), expected))
    return found


def answer(run: Run, path: Path, x: np.ndarray, expected: np.ndarray) -> str:
    """``equal``, the largest difference, or why there is none."""
    try:
        got = run(path, x)
    except Exception as error:  # whatever a consumer raises is its answer
        return f"refused: {str(error).splitlines()[0][:60] if str(error) else type(error).__name__}"
    largest = float(np.abs(got - expected).max() / np.abs(expected).max())
    return "equal" if largest == 0 else f"{largest:.1e}"


if __name__ == "__main__":
    main()
