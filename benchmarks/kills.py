"""Kill evaluate, distill and export again and again: each ends as if nothing had happened.

    python benchmarks/kills.py --kills 50

A forked child does the work and is killed (SIGKILL) at a random time; the next one goes on from
what it left. Whenever one gets to its end, its result is compared with that of a run nobody killed,
bit for bit, the folder and the temporary folder are searched for leftovers, and it starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from analogize import analogize, distill, evaluate, export_onnx

Job = Callable[[Path], bytes]


def models() -> tuple[nn.Module, nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A small network, its analog copy, and data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 10))
    data = [(torch.randn(256, 64), torch.randint(10, (256,))) for _ in range(8)]
    return model, analogize(model, "pcm_8bit", calibration=data), data


def evaluation(folder: Path) -> bytes:
    """Twenty chips at two levels, kept after every one."""
    _, analog, data = models()
    file = folder / "run.json"
    evaluate(analog, data, eta=[0.1, None], instances=20, resume=file, progress=False)
    return file.read_bytes()


def training(folder: Path) -> bytes:
    """Six epochs, kept after every one."""
    teacher, analog, data = models()
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "resume": folder / "run.pt"}
    distill(analog, teacher, data, epochs=6, **settings)
    return b"".join(p.detach().numpy().tobytes() for p in analog.parameters())


def export(folder: Path) -> bytes:
    """One file with its weights beside it; what is there is whole whenever the writer dies."""
    _, analog, data = models()
    export_onnx(analog, folder / "model.onnx", data[0][0], external_above=1000)
    return (folder / "model.onnx").read_bytes() + (folder / "model.onnx.data").read_bytes()


JOBS: dict[str, tuple[Job, set[str]]] = {
    "evaluate": (evaluation, {"run.json"}),
    "distill": (training, {"run.pt"}),
    "export": (export, {"model.onnx", "model.onnx.data"}),
}


def main() -> None:
    """Kill each job so many times and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("jobs", nargs="*", help=f"of {', '.join(JOBS)}; all by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| job | kills | ends | of them equal | leftovers | alone |\n|---|---|---|---|---|---|")
    wrong = False
    for name in asked.jobs or JOBS:
        with tempfile.TemporaryDirectory() as place:
            wrong |= trial(name, Path(place), asked.kills, random.Random(asked.seed))
    sys.exit(wrong)


def trial(name: str, place: Path, kills: int, draw: random.Random) -> bool:
    """Kill one job; whether any end differed or left something behind."""
    job, files = JOBS[name]
    (place / "alone").mkdir()
    begun = time.monotonic()
    expected = wait(start(job, place, place / "alone"), None)
    alone = time.monotonic() - begun
    done = ends = equal = 0
    leftovers: set[str] = set()
    while done < kills or ends == 0:
        folder = place / f"{ends}"
        folder.mkdir(exist_ok=True)
        patience = draw.uniform(0, alone) if done < kills else None
        found = wait(start(job, place, folder), patience)
        if found is None:
            done += 1
            continue
        ends, equal = ends + 1, equal + (found == expected)
        leftovers |= set(os.listdir(folder)) - files | set(os.listdir(place / "tmp"))
        shutil.rmtree(folder)
    print(f"| {name} | {done} | {ends} | {equal} | {len(leftovers)} | {alone:.1f} s |", flush=True)
    for left in sorted(leftovers):
        print(f"    left behind: {left}")
    return equal < ends or bool(leftovers)


def start(job: Job, place: Path, folder: Path) -> tuple[int, Path]:
    """Fork a child that does the job and writes down the digest of its result."""
    out = place / "result"
    out.unlink(missing_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child, out
    tempfile.tempdir = str(place / "tmp")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    status = 1
    try:
        digest = hashlib.blake2b(job(folder)).hexdigest()
        out.with_suffix(".new").write_text(digest)
        os.replace(out.with_suffix(".new"), out)
        status = 0
    finally:
        os._exit(status)


def wait(started: tuple[int, Path], patience: float | None) -> str | None:
    """The digest of a child's result; None where it was killed after ``patience`` seconds."""
    child, out = started
    end = None if patience is None else time.monotonic() + patience
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if end is not None and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)
    if ended[1]:
        raise SystemExit(f"the job failed by itself, status {ended[1]}")
    return out.read_text()


if __name__ == "__main__":
    main()
