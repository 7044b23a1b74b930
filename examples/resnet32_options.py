"""Options beyond the paper on ResNet-32 (v1) and CIFAR-10, each against plain distillation.

    python examples/resnet32_options.py --data DIR --out runs/resnet32_cifar10 --device cuda

    plain          distillation at one noise level
    recalibrated   the same weights; BatchNorm's statistics re-estimated on every chip
    varying        eta drawn at every step from N(eta, (eta / 3)^2)
    warm-up        eta rising from 0 over the first 30 % of the epochs
    averaged       an exponential moving average of the weights, decay 0.999
    together       the options named by --together, and recalibrated

All are trained at --eta for as many epochs and measured on the same chips at every level. What
counts is the tolerance: the largest eta whose mean accuracy lies within one point of the clipped
model's without noise. With the --out of resnet32_cifar10.py its clean, clipped and distilled models
are used; they are trained otherwise. Options and resumption are as there.
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from cifar10 import cifar_options, start
from comparison import History, command, compiled, hardware, measure, per_chip, sgd, trainer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tolerance import tolerance
from torch import nn

from analogize import AnalogModule, Evaluation, TrainingNoise, distill
from analogize.models import cifar_resnet32

ALONE = ("varying", "warm-up", "averaged")


def main() -> None:
    """Train clean and clipped where that is yet to be done, then every option; measure all."""
    parser = cifar_options(__doc__ or "", "runs/resnet32_cifar10")
    parser.add_argument("--eta", type=float, default=0.057, help="the level trained at")
    parser.add_argument("--together", nargs="*", choices=ALONE, default=list(ALONE))
    args = parser.parse_args()
    _, base, train, test = start(cifar_resnet32(), args, "paper_resnet32")
    retrain = partial(train_option, base, train, test, args)
    levels = [0.0, *sorted(args.etas)]
    # Unlabelled images of the kind that a deployment has: training images, as they are.
    few = train.data.take(1000).batches(250)
    found: dict[str, Evaluation] = {}

    def keep(name: str, model: nn.Module, recalibration: Any = None) -> None:
        # --cross of resnet32_cifar10.py measures the plain one too.
        file = f"{'cross-distillation' if name == 'plain' else f'option-{name}'}-{args.eta:g}"
        found[name] = measure(model, test, levels, args, file, recalibration)
        write(found, base, test, args)

    plain = retrain((), f"distillation-{args.eta:g}")
    keep("plain", plain)
    keep("recalibrated", plain, few)
    for name in ALONE:
        keep(name, retrain((name,), f"option-{name}-{args.eta:g}"))
    together = tuple(sorted(args.together))
    keep("together", retrain(together, f"option-{'-'.join(together)}-{args.eta:g}"), few)


def train_option(
    base: AnalogModule,
    train: Any,
    test: Any,
    args: argparse.Namespace,
    names: tuple[str, ...],
    file: str,
) -> AnalogModule:
    """Distil a copy of ``base`` with the options ``names``, everything else being equal."""
    epochs = args.epochs or 150
    out = Path(args.out)
    return distill(
        compiled(copy.deepcopy(base), args),
        compiled(copy.deepcopy(base), args),
        train,
        test,
        epochs=epochs,
        temperature=args.temperature,
        gradient_clip_val=args.gradient_clip,
        optimizer=partial(sgd, lr=args.lr or 0.01),
        noise=TrainingNoise(
            eta=args.eta,
            eta_std=args.eta / 3 if "varying" in names else 0.0,
            eta_warmup=0.3 * epochs if "warm-up" in names else 0.0,
        ),
        ema=0.999 if "averaged" in names else None,
        chips=1,
        seed=args.seed,
        resume=out / f"{file}.ckpt",
        **trainer(args) | {"callbacks": [History(out / f"{file}.jsonl")]},
    )


def write(
    found: dict[str, Evaluation], base: nn.Module, test: Any, args: argparse.Namespace
) -> None:
    """Write ``options.json`` and ``options.png``, print the table."""
    clean = float(per_chip(measure(base, test, [0.0], args, "clipped"))[0]["mean"])
    rows = {name: per_chip(evaluation) for name, evaluation in found.items()}
    found_at = {name: tolerance(of, clean - 0.01) for name, of in rows.items()}
    result = {
        "command": command(),
        "options": {k: v for k, v in vars(args).items() if k not in ("data", "out")},
        "clipped_without_noise": clean,
        "tolerance": found_at,
        "rows": [{"option": name, **row} for name, of in rows.items() for row in of],
        "versions": {p: metadata.version(p) for p in ("analogize", "torch", "lightning")},
        "hardware": hardware(),
    }
    out = Path(args.out)
    (out / "options.json").write_text(json.dumps(result, indent=1) + "\n")
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    for name, evaluation in found.items():
        evaluation.plot(ax=axes, label=name)
    axes.axhline(clean - 0.01, color="grey", linestyle=":")
    axes.figure.savefig(out / "options.png", dpi=150)
    table = Table(title="accuracy on programmed chips, %, and tolerance")
    for head in ("option", *(f"{level.eta:g}" for level in found["plain"].levels), "tolerance"):
        table.add_column(head)
    for name, evaluation in found.items():
        cells = [f"{100 * (level.mean or 0):.2f}" for level in evaluation.levels]
        at = found_at[name]
        table.add_row(name, *cells, f"{at['eta']:.4f} [{at['low']:.4f}, {at['high']:.4f}]")
    Console().print(table)


if __name__ == "__main__":
    main()
