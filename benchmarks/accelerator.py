"""Everything that an accelerator has to show, in one command of at most ten minutes.

    python benchmarks/accelerator.py --device cuda --out accelerator.json
    python benchmarks/accelerator.py --device cpu            a reduced dry run

Checks: the tests marked for CUDA, the same seed giving the same chip as on the CPU bit for bit,
torch against ONNX Runtime on the device, and steps without a host synchronisation. Measures: step
times and peak memory (clean, noise, 8 bits, device target; eager and compiled; float32 and
bfloat16), chips a second one by one and at once, and the same layer in aihwkit-lightning where
that is installed. What cannot run says why, in the report and in the JSON. Nothing after
``--budget`` seconds is started.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import AnalogizeError, analogize, clip_weights, evaluate, export_onnx, program
from analogize.crossbar.ops import operators
from analogize.models import cifar_resnet32

TARGETS = {
    "clean": None,
    "noise": "paper_resnet32",
    "8 bits": "pcm_8bit",
    "device": "pcm_joshi2020",
}
Result = dict[str, Any]


class Block(nn.Module):
    """A transformer's block without its bias: attention's projections and the feed-forward part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, T, width) to (B, width)."""
        q, k, v = self.mix(self.before(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = x + self.out(mixed)
        y: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return y.mean(1)


def workloads(full: bool) -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Name -> (how to build it, input shape); small ones for a dry run."""
    if not full:
        return {
            "convolution": (_small, (2, 3, 32, 32)),
            "transformer block": (partial(Block, 64), (2, 8, 64)),
        }
    return {
        "ResNet-32": (cifar_resnet32, (1024, 3, 32, 32)),
        "ResNet-18": (partial(torchvision.models.resnet18, num_classes=10), (512, 3, 64, 64)),
        "ResNet-50": (torchvision.models.resnet50, (128, 3, 224, 224)),
        "transformer block": (partial(Block, 2048), (16, 1024, 2048)),
    }


def tests(device: str) -> Result:
    """Run the tests that need the device."""
    if device != "cuda":
        return {"skipped": "they need CUDA"}
    places = [f"tests/{room}" for room in ("cuda", "crossbar", "evaluation", "saving")]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda or gpu or accelerator", *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "failed": failed, "last line": lines[-1:]}


def same_chip(device: str) -> Result:
    """Whether a seed gives the bits of the CPU's chip on the device, target by target."""
    layers = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))
    x = torch.randn(32, 96)
    found = {}
    for name, target in TARGETS.items():
        if target is None:
            continue
        here = analogize(layers, target, [x]).eval()
        there = copy.deepcopy(here).to(device)
        for model in (here, there):
            program(model, seed=7)
        pairs = zip(operators(here), operators(there), strict=True)
        found[name] = all(bool((a.array.chip == b.array.chip.cpu()).all()) for a, b in pairs)
    return {"equal": all(found.values()), "targets": found}


def onnx(device: str, folder: Path) -> Result:
    """The largest difference between torch and ONNX Runtime, both on the device."""
    import onnxruntime

    provider = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        return {"skipped": f"onnxruntime has no {provider} here"}
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    x = torch.randn(4, 3, 8, 8)
    model = analogize(layers, "pcm_8bit", [x]).eval()
    program(model, seed=1)
    path = folder / "accelerator.onnx"
    export_onnx(model, path, x, noise="programmed")
    session = onnxruntime.InferenceSession(path, providers=[provider])
    (there,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        here = model.to(device)(x.to(device)).cpu()
    difference = (here - torch.from_numpy(there)).abs().max()
    return {"largest difference": float(difference), "provider": provider}


def training_step(model: nn.Module, x: Tensor, bfloat16: bool) -> Callable[[], None]:
    """Forward and backward pass, SGD, clipping."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()
        optimizer.step()

    return run


def timed(run: Callable[[], None], device: str, repeats: int) -> Result:
    """Median milliseconds of ``run``, and the peak of memory on the device in MiB."""
    for _ in range(2):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    return {"ms": sorted(seconds)[len(seconds) // 2] * 1e3, "peak MiB": peak}


def waits(run: Callable[[], None], device: str) -> bool | str:
    """Whether ``run`` makes the host wait for the device; text where that cannot be asked."""
    if device != "cuda":
        return "needs CUDA"
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def steps(
    device: str, full: bool, late: Callable[[], bool], keep: Callable[[Result], None]
) -> Result:
    """Training steps and programmed chips of every workload, handed to ``keep`` one by one."""
    found: Result = {}
    # Everything eager first: compiling takes most of the time.
    for compiled in (False, True) if full else (False,):
        for name, (build, shape) in workloads(full).items():
            x = torch.randn(shape, device=device)
            clean = build().to(device)
            for (case, target), bfloat16 in itertools.product(TARGETS.items(), (False, True)):
                precision = "bfloat16" if bfloat16 else "float32"
                key = f"{name}, {case}, {precision}" + (", compiled" if compiled else "")
                found[key] = (
                    {"skipped": "the budget is spent"}
                    if late()
                    else _step(clean, x, target, compiled, bfloat16, device, full)
                )
                keep(found)
    return found


def _step(
    clean: nn.Module,
    x: Tensor,
    target: str | None,
    compiled: bool,
    bfloat16: bool,
    device: str,
    full: bool,
) -> Result:
    try:
        model = copy.deepcopy(clean) if target is None else analogize(clean, target, [x[:8]])
        prepared = torch.compile(model.train()) if compiled else model.train()
        run = training_step(prepared, x, bfloat16)
        found = timed(run, device, 10 if full else 1)
        if not compiled:
            found["step waits"] = waits(run, device)
        if target is not None:
            run_clip = partial(_ignore, partial(clip_weights, model))
            found["clip ms"] = timed(run_clip, device, 3 if full else 1)["ms"]
            program(model, seed=0)
        model.eval()
        inference = partial(_infer, prepared, x, bfloat16)
        found["chip ms"] = timed(inference, device, 10 if full else 1)["ms"]
        if not compiled:
            found["chip waits"] = waits(inference, device)
        return found
    except (RuntimeError, torch.OutOfMemoryError) as error:
        return {"failed": str(error).splitlines()[0]}


def _ignore(function: Callable[[], object]) -> None:
    function()


def _infer(model: nn.Module, x: Tensor, bfloat16: bool) -> None:
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        model(x)


def chips_a_second(device: str, full: bool) -> Result:
    """Programmed chips evaluated in a second, one by one and in groups."""
    shape, instances = ((256, 3, 32, 32), 16) if full else ((4, 3, 32, 32), 2)
    data = [(torch.randn(shape), torch.randint(10, shape[:1])) for _ in range(2)]
    model = analogize(cifar_resnet32() if full else _small(), "pcm_4bit", data).to(device)
    found: Result = {}
    for at_once in (1, instances):
        start, key = time.perf_counter(), f"at_once={at_once}"
        try:
            evaluate(model, data, instances=instances, seed=0, at_once=at_once, progress=False)
            found[key] = instances / (time.perf_counter() - start)
        except AnalogizeError as error:  # not every torch can batch every operator
            found[key] = f"failed: {error}"
    return found


def _small() -> nn.Module:
    convolution = nn.Conv2d(3, 8, 3, stride=4)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))


def peer(device: str, full: bool) -> Result:
    """One training step of a linear layer here and in aihwkit-lightning."""
    try:
        from aihwkit_lightning.nn.conversion import convert_to_analog
        from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
    except ImportError:
        return {"skipped": "aihwkit-lightning is not installed"}
    width, rows = (4096, 4096) if full else (32, 4)
    x, layer = torch.randn(rows, width, device=device), nn.Linear(width, width).to(device)
    theirs = convert_to_analog(copy.deepcopy(layer), TorchInferenceRPUConfig())
    ours = analogize(layer, "pcm_8bit", [x]).train()
    models = {"analogize": ours, "aihwkit-lightning": theirs}
    return {k: timed(training_step(m, x, False), device, 10) for k, m in models.items()}


def machine(device: str) -> Result:
    """What the figures belong to."""
    found: Result = {"torch": torch.__version__, "python": sys.version.split()[0]}
    for name in ("analogize", "triton", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return found


def main(arguments: list[str] | None = None) -> Result:
    """Run everything, print it, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=None, help="write the results there, as JSON")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds")
    parser.add_argument("--skip", nargs="+", default=(), metavar="PART", help="parts to leave out")
    options = parser.parse_args(arguments)
    device, full, begun = options.device, options.device == "cuda", time.monotonic()
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu is a dry run")
    torch.manual_seed(0)

    def late() -> bool:
        return time.monotonic() - begun > options.budget

    results: Result = {"machine": machine(device), "dry run": not full}

    def keep(name: str, found: Result) -> None:
        """Write what there is, so that nothing is lost where a run is cut short."""
        results[name] = found
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1) + "\n")

    parts: dict[str, Callable[[], Result]] = {
        "same chip as on the CPU": lambda: same_chip(device),
        "torch and ONNX Runtime": lambda: onnx(device, _folder(options.out)),
        "tests": lambda: tests(device),
        "chips a second": lambda: chips_a_second(device, full),
        "aihwkit-lightning": lambda: peer(device, full),
        "steps": lambda: steps(device, full, late, partial(keep, "steps")),
    }
    if unknown := set(options.skip) - set(parts):
        parser.error(f"--skip: no part is called {', '.join(unknown)}; they are {', '.join(parts)}")
    for name, part in parts.items():
        if name in options.skip:
            continue
        start = time.monotonic()
        with nullcontext() if device == "cpu" else torch.cuda.device(0):
            found = {"skipped": "the budget is spent"} if late() else part()
        keep(name, found | {"seconds": round(time.monotonic() - start, 1)})
        print(f"{name}:")
        for key, value in results[name].items():
            print(f"    {key}: {value}")
    return results


def _folder(out: Path | None) -> Path:
    if out is not None:
        return out.parent
    import tempfile

    return Path(tempfile.mkdtemp())


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    main()
