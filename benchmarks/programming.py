"""Programming one chip of torchvision's ResNet-18, 11.7 million weights, against a Gaussian one.

python benchmarks/programming.py [--rounds 10]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from interleaved import compare, print_table, steady_process
from torch import nn
from torchvision.models import resnet18

from analogize import analogize, program

BASELINE = "pcm_8bit"
TARGETS = ("pcm_joshi2020", "pcm_hermes", "reram_wan2022", "sonos_tcas2022")


def programming(model: nn.Module, **how: Any) -> Callable[[], None]:
    """Programming chip 0 as a callable."""
    return lambda: program(model, 0, **how)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = resnet18().eval()
    cases = {BASELINE: (BASELINE, programming(analogize(network, BASELINE)))}
    for name in TARGETS:
        model = analogize(network, name)
        cases[name] = (BASELINE, programming(model))
        cases[f"{name}, a day later"] = (BASELINE, programming(model, drift_time="1 day"))
    print_table(f"Programming a chip, {BASELINE} = 1", compare(cases, options.rounds, warmup=1))


if __name__ == "__main__":
    steady_process()
    main()
