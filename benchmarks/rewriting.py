"""Rewriting ResNet-50: seconds and peak memory against ``copy.deepcopy``.

python benchmarks/rewriting.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torchvision
from footprint import Footprint, measure
from interleaved import machine

from analogize import analogize


def prepare(case: str) -> Callable[[], object]:
    """A ResNet-50 and what to do with it."""
    model = torchvision.models.resnet50()
    model(torch.zeros(2, 3, 32, 32))  # load whatever loads lazily
    return {
        "copy.deepcopy": partial(copy.deepcopy, model),
        "analogize": partial(analogize, model, "paper_resnet50"),
        "analogize, in place": partial(analogize, model, "paper_resnet50", inplace=True),
    }[case]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cases = ("copy.deepcopy", "analogize", "analogize, in place")
    found: dict[str, list[Footprint]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            found[case].append(measure(partial(prepare, case)))
    print(f"{'Rewriting ResNet-50':24}{'seconds (min to max)':>26}{'peak MiB (min to max)':>28}")
    for case, runs in found.items():
        seconds = sorted(r.seconds for r in runs)
        memory = sorted(r.mebibytes for r in runs)
        print(
            f"{case:24}{median(seconds):12.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
            f"{median(memory):14.0f} ({memory[0]:.0f} to {memory[-1]:.0f})"
        )
    print(machine())


if __name__ == "__main__":
    main()
