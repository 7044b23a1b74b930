"""Tiles: what converting every tile's sums costs, and what it does to a ResNet-18's output.

python benchmarks/tiling.py [--rounds 10] [--table-only]

The cost is CPU time of CIFAR ResNet-18 on one programmed chip against the same network untiled,
interleaved. The table is the signal-to-noise ratio of the logits, in dB, of torchvision's
ResNet-18 (random weights, random images) with 8-bit inputs and weights on tiles of several sizes
against the untiled network without an ADC: 10 log10(sum y^2 / sum (y_tiled - y)^2).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from interleaved import compare, print_table, steady_process
from programmed_chip import inference
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import resnet18

from analogize import analogize, program
from analogize.models import cifar_resnet18_v2
from analogize.targets.spec import Target

SIZES = (64, 128, 256, 512)
BITS = (4, 6, 8, 10, 12)
# Ranges that saturate nowhere: what is left is the resolution.
EVERYTHING = {"kind": "percentile", "low": 0.0, "high": 100.0}


def target(rows: int | None, adc_bits: int | None, tiling: bool = True) -> Target:
    """8-bit weights and inputs on tiles of ``rows`` x ``rows``, or on one array of any size."""
    array: dict[str, Any] | None = None
    if rows is not None:
        array = {"rows": rows, "cols": rows, "tiling": tiling}
    return Target.model_validate(
        {
            "name": "tiles",
            "weights": {"range": {"kind": "absmax"}, "bits": 8, "grid": "symmetric"},
            "dac": {"bits": 8, "range": EVERYTHING},
            "adc": {"bits": adc_bits, "range": EVERYTHING},
            "array": array,
        }
    )


@torch.no_grad()
def output(model: nn.Module, x: Tensor, given: Target) -> Tensor:
    """The logits of ``model`` on ``given``, calibrated on the images themselves."""
    y: Tensor = analogize(model, given, [x], example_inputs=x).eval()(x)
    return y


def decibels(y: Tensor, reference: Tensor) -> float:
    """Signal-to-noise ratio of ``y`` against ``reference``."""
    noise = (y - reference).double().square().sum()
    return float(10 * (reference.double().square().sum() / noise).log10())


def cost(rounds: int, batch: int) -> None:
    """Print the ratio of CPU times, tiling on against off."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 32, 32)
    clean = cifar_resnet18_v2().eval()
    models = {"untiled": analogize(clean, target(256, 8, tiling=False), [x])}
    models["untiled, without a tile size"] = analogize(clean, target(None, 8), [x])
    for size in (512, 256, 128):
        models[f"tiles of {size} x {size}"] = analogize(clean, target(size, 8), [x])
    for model in models.values():
        program(model, seed=0)
    cases = {name: ("untiled", inference(model, x)) for name, model in models.items()}
    rows = compare(cases, rounds, warmup=1)
    print_table(f"Tiles that convert their own sums, ResNet-18, batch {batch}", rows)


def table() -> None:
    """Print signal-to-noise ratios over ADC bits and tile size."""
    torch.manual_seed(0)
    model, x = resnet18(num_classes=1000).eval(), torch.randn(4, 3, 64, 64)
    model.train()
    with torch.no_grad():
        for _ in range(3):  # BatchNorm statistics that fit the images
            model(torch.randn(16, 3, 64, 64))
    model.eval()
    whole = output(model, x, target(None, None))
    exact = output(model, x, target(128, None))
    fine = output(model, x, target(128, 16))
    shown = Table(title="ResNet-18, SNR of the logits in dB", title_justify="left")
    for name in ("ADC bits", "untiled", *(f"{size} x {size}" for size in SIZES)):
        shown.add_column(name, justify="right")
    for bits in BITS:
        cells = [decibels(output(model, x, target(size, bits)), whole) for size in (None, *SIZES)]
        shown.add_row(str(bits), *(f"{cell:.1f}" for cell in cells))
    console = Console(width=110)
    console.print(shown)
    console.print(
        f"no ADC, tiles of 128: largest difference {float((exact - whole).abs().max()):g}"
    )
    console.print(f"16 ADC bits, tiles of 128: {decibels(fine, whole):.1f} dB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    table()
    if not options.table_only:
        cost(options.rounds, options.batch)


if __name__ == "__main__":
    steady_process()
    main()
