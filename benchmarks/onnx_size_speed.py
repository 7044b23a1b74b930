"""File size, onnxruntime time and difference to torch of every way to export ResNet-18.

    python benchmarks/onnx_size_speed.py [--size 224] [--threads 1] [--repeats 10]

Random weights, one image; the digital model, exported by torch as it is, is the yardstick. Weights
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


def timed(path: Path, x: torch.Tensor, threads: int, repeats: int) -> tuple[np.ndarray, float]:
    """Outputs, and the best of so many runs in milliseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options)
    feed = {session.get_inputs()[0].name: x.numpy()}
    result, best = np.asarray(session.run(None, feed)[0]), float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return result, best * 1e3


def main() -> None:
    """Export, run and compare every way; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    images = torch.randn(8, 3, options.size, options.size)
    with torch.no_grad():
        model(images)
    x = images[:1]
    table = Table("export", "MB", "nodes", "ms", "outputs that differ", "largest difference")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model.eval(), (x,), path, dynamo=True, external_data=False, verbose=False)
        _, spent = timed(path, x, options.threads, options.repeats)
        nodes = len(onnx.load(path).graph.node)
        table.add_row(
            "digital model",
            f"{path.stat().st_size / 1e6:.1f}",
            str(nodes),
            f"{spent:.1f}",
            "-",
            "-",
        )
        for name, target, settings in WAYS:
            analog = analogize(model, target, [images])
            with torch.no_grad(), noise_mode(analog, "off"):
                expected = analog(x).numpy()
            exported = export_onnx(analog, path, x, **settings)
            actual, spent = timed(path, x, options.threads, options.repeats)
            difference = np.abs(actual - expected)
            table.add_row(
                name,
                f"{exported.size / 1e6:.1f}",
                str(len(onnx.load(path).graph.node)),
                f"{spent:.1f}",
                f"{(difference > 0).sum()} of {difference.size}",
                f"{difference.max():.3g}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
