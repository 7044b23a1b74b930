"""LeNet-5 on noisy chips without retraining: what digital remedies alone give back.

    python examples/lenet5_remedies.py --data DIR --out examples/results/lenet5_remedies

LeNet-5 has no BatchNorm whose statistics could be re-estimated, so every operator gets a scale and
an offset per output channel (``recalibrate`` with a teacher), and the last layer is refitted
(``adapt``). Weights are clipped at two standard deviations and not quantized; the network is the
one of Fig. 2 as it was trained, never with noise. 1,000 unlabelled training images serve every
remedy.
"""

from __future__ import annotations

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from comparison import command, per_chip
from rich.console import Console
from rich.table import Table

from analogize import Adaptation, Recalibration, analogize, evaluate
from analogize.data import load_dataset
from analogize.models import LeNet5

ETAS = (0.0, 0.057, 0.11, 0.2)
WEIGHTS = Path(__file__).parent / "results" / "fig2" / "lenet5.pt"


def main() -> None:
    """Measure every remedy on the same chips; write ``remedies.json``, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="MNIST in torchvision's layout")
    parser.add_argument("--out", default="runs/lenet5_remedies")
    parser.add_argument("--weights", default=str(WEIGHTS))
    parser.add_argument("--target", default="paper_resnet32", help="two sigma, not quantized")
    parser.add_argument("--etas", type=float, nargs="+", default=list(ETAS))
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    clean = LeNet5()
    clean.load_state_dict(torch.load(args.weights, weights_only=True))
    clean.eval()
    images = load_dataset("mnist", args.data, True).take(1000)
    # Every batch a fair sample.
    few = [images.normalization(images.images[k::4]) for k in range(4)]
    test = load_dataset("mnist", args.data, False).take(args.test_images).batches(500)
    model = analogize(clean, args.target, example_inputs=few[0][:2])
    remedies: dict[str, Any] = {
        "as is": None,
        "matched to its own noise-free pass": Recalibration(few, model),
        "matched to the clean model": Recalibration(few, clean),
        "the same, 64 images": Recalibration([few[0][:64]], clean),
        "head refitted": Adaptation(few, clean),
        "head refitted, 16 steps": Adaptation(few, clean, steps=16),
    }
    table = Table(title="LeNet-5, accuracy on programmed chips, %: mean ± deviation")
    for head in ("remedy", *(f"{eta:g}" for eta in args.etas)):
        table.add_column(head)
    rows: list[dict[str, Any]] = []
    for name, remedy in remedies.items():
        found = evaluate(
            model,
            test,
            eta=args.etas,
            instances=args.instances,
            seed=args.seed,
            recalibration=remedy,
            progress=False,
        )
        cost = {}
        if isinstance(remedy, Adaptation) and remedy.found is not None:
            cost["digital_parameters"] = remedy.found.parameters
            cost["extra_macs"] = remedy.found.extra_macs
        rows += [{"remedy": name, **cost, **row} for row in per_chip(found)]
        cells = [f"{100 * (at.mean or 0):.2f} ± {100 * (at.std or 0):.2f}" for at in found.levels]
        table.add_row(name, *cells)
        result = {
            "command": command(),
            "versions": {p: metadata.version(p) for p in ("analogize", "torch")},
            "rows": rows,
        }
        (out / "remedies.json").write_text(json.dumps(result, indent=1) + "\n")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
