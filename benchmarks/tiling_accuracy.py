"""ADC bits against tile size: accuracy of a trained ResNet-32 on CIFAR-10.

python benchmarks/tiling_accuracy.py --checkpoint clean.ckpt --data DIR [--images 500] [--out FILE]

The checkpoint is the clean one of examples/resnet32_cifar10.py, DIR its data. Weights and inputs
have 8 bits, nothing is noisy, and every tile converts its own sums; converters span percentiles 0.1
to 99.9 of 256 training images, as in the built-in targets. The same test images, spread over the
test set, in every cell; intervals are Wilson's, 95 %, over images. FILE keeps what is done, so that
an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from interleaved import steady_process
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from analogize import analogize
from analogize.crossbar.digest import weights_digest
from analogize.data import load_dataset
from analogize.models import cifar_resnet32
from analogize.targets.spec import Target

SIZES = (None, 64, 128, 256, 512)
BITS = (4, 5, 6, 7, 8, 9, 10)
RANGE = {"kind": "percentile", "low": 0.1, "high": 99.9}
PREFIX = "student."


def target(rows: int | None, adc_bits: int | None) -> Target:
    """8-bit weights and inputs on tiles of ``rows`` x ``rows``, or on one array of any size."""
    return Target.model_validate(
        {
            "name": "tiles",
            "weights": {"range": {"kind": "absmax"}, "bits": 8, "grid": "symmetric"},
            "dac": {"bits": 8, "range": RANGE},
            "adc": {"bits": adc_bits, "range": RANGE},
            "array": None if rows is None else {"rows": rows, "cols": rows, "tiling": True},
        }
    )


@torch.no_grad()
def right(model: nn.Module, batches: Any) -> int:
    """How many images ``model`` classifies rightly."""
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)


def interval(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    z, share = 1.959964, count / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return 100 * (middle - half), 100 * (middle + half)


def trained(path: Path) -> nn.Module:
    """The clean ResNet-32 of a checkpoint."""
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=False)[
        "state_dict"
    ]
    model = cifar_resnet32()
    model.load_state_dict(
        {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    )
    return model.eval()


def run(options: argparse.Namespace) -> dict[str, int]:
    """Every cell that ``options.out`` does not have yet.

    Raises:
        SystemExit: it counts the right answers of another model, or of so many other images.
    """
    model = trained(options.checkpoint)
    calibration = load_dataset("cifar10", options.data, True, limit=256).batches(128)
    test = load_dataset("cifar10", options.data, False, limit=options.images).batches(100)
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    made = {"images": options.images, "weights": weights_digest(model)}
    if kept and {name: kept.get(name) for name in made} != made:
        raise SystemExit(f"{options.out} has another --checkpoint or --images; name another --out")
    done: dict[str, int] = kept.get("right", {})
    cells = [("digital", None), ("none", target(None, None))]
    cells += [(f"{size}/{bits}", target(size, bits)) for bits in BITS for size in SIZES]
    for name, given in cells:
        if name in done:
            continue
        done[name] = right(model if given is None else analogize(model, given, calibration), test)
        print(name, done[name], flush=True)
        options.out.write_text(json.dumps(made | {"right": done}, indent=1) + "\n")
    return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/tiling_accuracy.json"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = run(options)
    shown = Table(title=f"ResNet-32, accuracy in percent, {options.images} images")
    for name in (
        "ADC bits",
        *("untiled" if size is None else f"{size} x {size}" for size in SIZES),
    ):
        shown.add_column(name, justify="right")

    def cell(name: str) -> str:
        low, high = interval(done[name], options.images)
        return f"{100 * done[name] / options.images:.1f} [{low:.1f}, {high:.1f}]"

    for bits in BITS:
        shown.add_row(str(bits), *(cell(f"{size}/{bits}") for size in SIZES))
    console = Console(width=140)
    console.print(shown)
    console.print(f"digital: {cell('digital')}; 8-bit inputs and weights, no ADC: {cell('none')}")


if __name__ == "__main__":
    steady_process()
    main()
