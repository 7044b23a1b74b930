"""File size, onnxruntime time and difference to torch of every way to export ResNet-18.

    python benchmarks/onnx_size_speed.py [--size 224] [--threads 1] [--repeats 30]

CPU-time ratios, in turns within one process; random weights, one image; the digital model, exported
by torch as it is, is the yardstick. Weights
do not change what a kernel costs, but random ones make activations overflow: BatchNorm is given
the statistics of random images first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from rich.console import Console
from rich.table import Table

from analogize import analogize, export_onnx, noise_mode

# name, target, options of export_onnx
WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("INT4, flat", "pcm_4bit", {}),
    ("INT4, functions", "pcm_4bit", {"form": "functions"}),
    ("8-bit codes, flat", "pcm_8bit", {}),
    ("8-bit codes, functions", "pcm_8bit", {"form": "functions"}),
    ("8-bit codes, integer kernels", "pcm_8bit", {"arithmetic": "integer"}),
    ("8-bit codes, qdq", "pcm_8bit", {"arithmetic": "qdq"}),
    ("4-bit codes as UINT8, qdq", "pcm_4bit", {"arithmetic": "qdq"}),
    ("float weights", "pcm_8bit", {"weights": "float"}),
    ("noise drawn at run time", "pcm_8bit", {"noise": "runtime"}),
)


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on ``path``, which it has read by then."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options)


def run(session: onnxruntime.InferenceSession, x: torch.Tensor) -> np.ndarray:
    """The model's output."""
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def ratios(
    sessions: dict[str, onnxruntime.InferenceSession], x: torch.Tensor, repeats: int
) -> dict[str, tuple[float, float, float]]:
    """CPU time over the first session's of the same round: quartiles, the median first.

    In turns, so that all share disturbances; CPU time, so that other programs' turns do not count.
    """
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(repeats + 1):
        spent = {}
        for name, session in sessions.items():
            start = time.process_time()
            run(session, x)
            spent[name] = time.process_time() - start
        if number:  # the first round warms up
            yardstick = next(iter(spent.values()))
            for name, seconds in spent.items():
                found[name].append(seconds / yardstick)
    quartiles = {name: np.quantile(values, (0.5, 0.25, 0.75)) for name, values in found.items()}
    return {name: (float(m), float(a), float(b)) for name, (m, a, b) in quartiles.items()}


def main() -> None:
    """Export, run and compare every way; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    images = torch.randn(8, 3, options.size, options.size)
    with torch.no_grad():
        model(images)
    x = images[:1]
    rows: dict[str, tuple[str, ...]] = {}
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model.eval(), (x,), path, dynamo=True, external_data=False, verbose=False)
        sessions["digital model"] = open_session(path, options.threads)
        rows["digital model"] = (f"{path.stat().st_size / 1e6:.1f}", _nodes(path), "-", "-")
        for name, target, settings in WAYS:
            analog = analogize(model, target, [images])
            with torch.no_grad(), noise_mode(analog, "off"):
                expected = analog(x).numpy()
            exported = export_onnx(analog, path, x, **settings)
            sessions[name] = open_session(path, options.threads)
            difference = np.abs(run(sessions[name], x) - expected)
            count = f"{(difference > 0).sum()} of {difference.size}"
            rows[name] = (
                f"{exported.size / 1e6:.1f}",
                _nodes(path),
                count,
                f"{difference.max():.3g}",
            )
    table = Table("export", "CPU time", "MB", "nodes", "outputs that differ", "largest difference")
    for name, (median, low, high) in ratios(sessions, x, options.repeats).items():
        table.add_row(name, f"{median:.2f} ({low:.2f} to {high:.2f})", *rows[name])
    Console(width=120).print(table)


def _nodes(path: Path) -> str:
    return str(len(onnx.load(path).graph.node))


if __name__ == "__main__":
    main()
