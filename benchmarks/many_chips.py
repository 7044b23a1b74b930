"""Does one batched pass over many chips pay? Against the same chips one by one.

    python benchmarks/many_chips.py [--device cuda] [--chips 16] [--batches 1,32,256]

Prints the median seconds of both ways over repeated passes, programming excluded, for several
networks and batch sizes.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from analogize import analogize, program
from analogize.crossbar.ops import operators
from analogize.evaluation.many_chips import program_many, run_many
from analogize.models import DigitsNet, LeNet5, cifar_resnet32

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "DigitsNet": (DigitsNet, (1, 8, 8)),
    "LeNet5": (LeNet5, (1, 28, 28)),
    "ResNet-32": (cifar_resnet32, (3, 32, 32)),
}


def main() -> None:
    """Time every network at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chips", type=int, default=16)
    parser.add_argument("--batches", default="1,32,256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--target", default="pcm_4bit")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {platform.machine()}, {options.device}, {threads} threads")
    print(f"{'network':10} {'batch':>5} {'chips':>5} {'one by one':>11} {'batched':>9} {'gain':>6}")
    for name, (make, shape) in NETWORKS.items():
        for batch in map(int, options.batches.split(",")):
            x = torch.randn(batch, *shape, device=options.device)
            calibration = [torch.randn(32, *shape, device=options.device)]
            model = analogize(make().to(options.device).eval(), options.target, calibration)
            single, batched = measure(model, x, options.chips, options.repeats)
            row = f"{name:10} {batch:5} {options.chips:5} {single:9.4f} s {batched:7.4f} s"
            print(f"{row} {single / batched:5.2f}x", flush=True)


@torch.no_grad()
def measure(model: nn.Module, x: torch.Tensor, count: int, repeats: int) -> tuple[float, float]:
    """Median seconds for all chips: one by one, and batched."""
    chips = program_many(model, list(range(count)))
    arrays = {f"{n}.array.chip": m.array for n, m in model.named_modules() if m in operators(model)}
    program(model, 0)

    def one_by_one() -> None:
        for k in range(count):
            for name, array in arrays.items():
                array.chip = chips[name][k]
            model(x)

    return median(one_by_one, repeats), median(lambda: run_many(model, x, chips), repeats)


def median(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of ``work``, after one pass to warm up."""
    spent = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])


if __name__ == "__main__":
    main()
