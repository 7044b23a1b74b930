"""A model beyond protobuf's 2 GiB: export with external data, check, run and read back.

    python benchmarks/onnx_large.py [--layers 9] [--width 8192] [--folder DIR]

Square linear layers, whose weight codes are kept as float32 (the choice
``weights="float"``), so that the file passes 2 GiB with as few parameters as possible. Every stage
runs in a process of its own, whose peak memory it reports.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from analogize import analogize, export_onnx, load_onnx, noise_mode, read_regions

_MIB = 2**20


def peak() -> float:
    """The most memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def export(folder: Path, layers: int, width: int, target: str) -> None:
    """Build, rewrite in place, and write; keeps an input and torch's output beside the file."""
    torch.manual_seed(0)
    stack = [m for _ in range(layers) for m in (nn.Linear(width, width, bias=False), nn.ReLU())]
    model = nn.Sequential(*stack[:-1]).eval()
    x = torch.rand(2, width)
    size = sum(p.numel() for p in model.parameters()) * 4 / _MIB
    with torch.no_grad():
        analog = analogize(model, target, calibration=[x], inplace=True)
        before = peak()
        exported = export_onnx(analog, folder / "model.onnx", x, weights="float")
        after = peak()
        with noise_mode(analog, "off"):
            expected = analog(x)
    np.savez(folder / "expected.npz", x=x.numpy(), y=expected.numpy())
    sizes = ", ".join(f"{f.name} {f.stat().st_size / _MIB:.2f} MiB" for f in exported.files)
    promise = "equal" if exported.numerics.exact else "near"
    print(f"parameters {size:.0f} MiB; files: {sizes}; promised: {promise}")
    added = f"{after - before:.0f} MiB added, {(after - before) / size:.2f} of the parameters"
    print(f"export: peak {before:.0f} MiB before, {added}")


def check(folder: Path) -> None:
    """``onnx.checker`` on the path, which follows external data."""
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    print(f"onnx.checker, full_check: passed; peak {peak():.0f} MiB")


def run(folder: Path) -> None:
    """Onnxruntime against torch."""
    known = np.load(folder / "expected.npz")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    found = np.asarray(session.run(None, {session.get_inputs()[0].name: known["x"]})[0])
    print(
        f"onnxruntime: equal to torch: {np.array_equal(found, known['y'])}; peak {peak():.0f} MiB"
    )


def read(folder: Path) -> None:
    """Regions, all of them with node and weights."""
    regions = read_regions(folder / "model.onnx")
    whole = sum(r.missing == () for r in regions)
    print(f"read_regions: {whole} of {len(regions)} whole; peak {peak():.0f} MiB")


def load(folder: Path) -> None:
    """The file as an analog module against torch's output before."""
    known = np.load(folder / "expected.npz")
    module = load_onnx(folder / "model.onnx")
    with torch.no_grad():
        equal = np.array_equal(module(torch.from_numpy(known["x"])).numpy(), known["y"])
    print(f"load_onnx: equal to torch: {equal}; peak {peak():.0f} MiB")


STAGES = {"check": check, "run": run, "read": read, "load": load}


def main() -> None:
    """Run every stage in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--target", default="pcm_8bit", help="pcm_4bit keeps sums below 2^24")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--stage", choices=["export", *STAGES], help="one stage only")
    options = parser.parse_args()
    if options.stage == "export":
        export(options.folder, options.layers, options.width, options.target)
    elif options.stage is not None:
        STAGES[options.stage](options.folder)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for stage in ("export", *STAGES):
                command = [sys.executable, __file__, "--folder", folder, "--stage", stage]
                sizes = ["--layers", str(options.layers), "--width", str(options.width)]
                options_of = [*sizes, "--target", options.target]
                subprocess.run([*command, *options_of], check=True)


if __name__ == "__main__":
    main()
