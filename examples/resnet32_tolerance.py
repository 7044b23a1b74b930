"""How much noise ResNet-32 (v1) withstands: every training and every digital remedy, side by side.

    python examples/resnet32_tolerance.py --data DIR --weights examples/results/resnet32/clean.pt

Trainings, of weights clipped to --range standard deviations:

    clipped            --clipped-epochs at a low learning rate without noise: "no retraining"

and, all from that model, for the same steps on the same batches:

    control            retrained without noise
    noise injection    retrained at --eta, alpha = 0
    distillation       retrained at --eta, alpha = 1, T = 6, the clean model its teacher

Remedies, on every chip, each with all products analog and with the first and the last digital:

    as is              none
    recalibrated       BatchNorm's statistics re-estimated on 1,000 unlabelled training images
    augmented          the same, the images cropped and flipped as in training
    matched            every product's outputs matched to its own without noise, on the 1,000
    refitted           recalibrated, and the head refitted in closed form, on the same images, to
                       what the model puts out without noise
    matched refitted   matched, and the head refitted likewise
    adapted            refitted, and --steps steps on BatchNorm's gains and offsets and the head's
                       bias

Every cell keeps, for every chip and image, whether the answer was right; intervals are from a
bootstrap that draws chips and images anew. --images train measures on training images that no
remedy uses, which is where choices are made. Done cells and trainings are not repeated, so several
of these commands with the same --out share the work; each ends with the table of all cells. Files
are named by settings, so that what others have made is never taken for a cell; those that are not
in a name want another --out, and are refused in this one: --weights, --data, --limit, --target,
--precision, --gradient-clip.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar10 import cifar_options
from comparison import History, compiled, sgd, trainer
from settings import claim
from tolerance_table import summarise
from torch import Tensor, nn

from analogize import (
    Adaptation,
    AnalogModule,
    Recalibration,
    TrainingNoise,
    analogize,
    distill,
    evaluate,
)
from analogize.data import load_dataset
from analogize.evaluation.data_digest import data_digest
from analogize.models import cifar_resnet32
from analogize.targets import load_target

ETAS = (0.02, 0.04, 0.057, 0.073, 0.11, 0.16, 0.2)
TRAININGS = ("clipped", "control", "noise injection", "distillation")
REMEDIES = (
    "as is",
    "recalibrated",
    "augmented",
    "matched",
    "refitted",
    "matched refitted",
    "adapted",
)
# What names the files of trainings and cells, or says which of them to make.
NAMED = (
    "range",
    "clipped_epochs",
    "epochs",
    "lr",
    "eta",
    "temperature",
    "seed",
    "trainings",
    "remedies",
    "ends",
    "steps",
    "images",
    "test_images",
)


def main() -> None:
    """Train what is yet to be trained, measure what is yet to be measured, print the table."""
    args = arguments()
    data = Data(args)
    claim(args, *NAMED, data=data_digest(data.train.data))
    reference(args, data)
    for training in args.trainings:
        kept = train(args, data, training).state_dict()
        for ends in sorted(set(args.ends)):
            model = analog(args, data, ends)
            # The weights of one training; only which of them an array holds differs.
            model.load_state_dict({k: v for k, v in kept.items() if k in model.state_dict()})
            for remedy, eta in itertools.product(args.remedies, (0.0, *args.etas)):
                cell(model, training, remedy, ends, eta, args, data)
    summarise(Path(args.out), data.name)


def arguments() -> argparse.Namespace:
    """The options of the CIFAR-10 recipes, and this one's."""
    parser = cifar_options(__doc__ or "", "runs/resnet32_tolerance")
    parser.set_defaults(etas=list(ETAS), epochs=5, clipped_epochs=3, lr=0.02, test_images=2000)
    parser.add_argument("--range", type=float, default=1.0, help="in standard deviations")
    parser.add_argument("--eta", type=float, default=0.06, help="the level trained at")
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--remedies", nargs="+", choices=REMEDIES, default=list(REMEDIES))
    parser.add_argument(
        "--ends",
        nargs="+",
        type=lambda word: word == "digital",
        default=[False, True],
        metavar="analog|digital",
        help="whether the first and the last product are digital",
    )
    parser.add_argument("--steps", type=int, default=16, help="gradient steps of 'adapted'")
    parser.add_argument("--images", choices=("test", "train"), default="test")
    return parser.parse_args()


class Data:
    """Images: for training, for measuring, and a thousand unlabelled ones for the remedies."""

    def __init__(self, args: argparse.Namespace) -> None:
        images = load_dataset("cifar10", args.data, True, limit=args.limit)
        test = load_dataset("cifar10", args.data, False, limit=args.test_images or args.limit)
        self.train = images.batches(128, generator=torch.Generator(), augment=True)
        self.validation = test.take(500).batches(250)
        few = images.take(1000)
        count = max(1, len(few) // 250)
        # Every batch a fair sample of the classes, in whose order the folders are read.
        self.few = [few.normalization(few.images[k::count]) for k in range(count)]
        cropped = images.take(1000).batches(250, generator=torch.Generator(), augment=True)
        self.augmented = list(cropped)
        if args.images == "train":
            # Every 25th image, moved on by one: none of every 50th that the remedies use.
            step = max(1, len(images) // (args.test_images or 2000))
            test = copy.copy(images)
            test.images, test.targets = images.images[1::step], images.targets[1::step]
        self.test = test.batches(250)
        self.name = f"{args.images}{len(test)}"
        self.clean = cifar_resnet32().to(memory_format=torch.channels_last).eval()
        if args.weights is None:
            raise SystemExit(
                "--weights: the clean model's state_dict, such as resnet32_cifar10.py's"
            )
        self.clean.load_state_dict(torch.load(args.weights, map_location="cpu"))


def analog(args: argparse.Namespace, data: Data, ends: bool) -> AnalogModule:
    """The clean model with its weights clipped to --range standard deviations."""
    target = load_target(args.target or "paper_resnet32").model_dump(by_alias=True)
    target["weights"]["range"] = {"kind": "std", "multiple": args.range}
    chosen = type(load_target("ideal")).model_validate(target)
    example = data.few[0][:2]
    return analogize(data.clean, chosen, example_inputs=example, digital="ends" if ends else ())


def settings(args: argparse.Namespace, training: str) -> dict[str, float]:
    """What tells one training from another of its kind: noise, epochs, learning rate and so on."""
    found = {"range": args.range, "clipped": args.clipped_epochs}
    if training != "clipped":
        found |= {"epochs": args.epochs, "lr": args.lr}
    if training in ("noise injection", "distillation"):
        found |= {"at": args.eta}
    if training == "distillation":
        found |= {"T": args.temperature}
    return found | {"seed": args.seed}


def name_of(args: argparse.Namespace, training: str) -> str:
    """The file name of a training."""
    chosen = (f"{name}{value:g}" for name, value in settings(args, training).items())
    return "-".join((training.replace(" ", "-"), *chosen))


def train(args: argparse.Namespace, data: Data, training: str) -> AnalogModule:
    """Retrain, or load what was retrained before."""
    student, name = analog(args, data, ends=False), name_of(args, training)
    file = Path(args.out) / f"{name}.pt"
    if file.exists():
        student.load_state_dict(torch.load(file))
        return student
    clipped = training == "clipped"
    if not clipped:
        student.load_state_dict(train(args, data, "clipped").state_dict())
    noisy = training in ("noise injection", "distillation")
    taught = training == "distillation"
    distill(
        compiled(student, args),
        data.clean if taught else None,
        data.train,
        data.validation,
        epochs=args.clipped_epochs if clipped else args.epochs,
        alpha=1.0 if taught else 0.0,
        temperature=args.temperature,
        gradient_clip_val=args.gradient_clip,
        optimizer=partial(sgd, lr=0.01 if clipped else args.lr),
        noise=TrainingNoise(eta=args.eta if noisy else 0.0),
        chips=1 if noisy else 0,
        seed=args.seed,
        resume=file.with_suffix(".ckpt"),
        **trainer(args) | {"callbacks": [History(file.with_suffix(".jsonl"))]},
    )
    torch.save(student.state_dict(), draft := file.with_suffix(".draft"))
    draft.replace(file)
    return student


class Right:
    """A metric that keeps, chip after chip, which answers were right."""

    def __init__(self) -> None:
        self.bits: list[np.ndarray] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of right answers in one batch."""
        right = outputs.argmax(1) == targets
        self.bits.append(right.cpu().numpy())
        return right.float().mean()


def measure(
    model: nn.Module,
    remedy: str,
    eta: float,
    chips: int,
    args: argparse.Namespace,
    data: Data,
) -> tuple[np.ndarray, dict[str, int]]:
    """Which answers were right (chips, images), and what the remedy cost on every chip."""
    few: Any = None
    if remedy in ("recalibrated", "augmented", "matched"):
        images = data.augmented if remedy == "augmented" else data.few
        few = Recalibration(images, model if remedy == "matched" else None)
    elif remedy != "as is":
        steps = args.steps if remedy == "adapted" else 0
        # Its own noise-free pass is what a chip should give; a better model fits other weights.
        few = Adaptation(data.few, model, steps=steps, match=remedy.startswith("matched"))
    right = Right()
    gpu = args.device != "cpu" and torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=args.precision == "bf16-mixed"):
        found = evaluate(
            model,
            data.test,
            right,
            eta,
            chips,
            args.seed,
            device=device,
            recalibration=few,
            progress=False,
        )
    bits = np.concatenate(right.bits).reshape(len(found.levels[0].values), -1)
    if not isinstance(few, Adaptation) or few.found is None:
        return bits, {}
    return bits, {"digital_parameters": few.found.parameters, "extra_macs": few.found.extra_macs}


def cell(
    model: nn.Module,
    training: str,
    remedy: str,
    ends: bool,
    eta: float,
    args: argparse.Namespace,
    data: Data,
) -> None:
    """Measure one cell, unless its file is there with as many chips."""
    where = "ends-digital" if ends else "all-analog"
    steps = args.steps if remedy == "adapted" else 0
    given = remedy.replace(" ", "-") + (f"{steps}" if steps else "")
    name = f"{name_of(args, training)}-{where}-{given}-{data.name}-{eta:g}"
    file = Path(args.out) / f"{name}.npz"
    chips = 1 if eta == 0 else args.instances
    if file.exists() and len(np.load(file)["bits"]) >= chips:
        return
    bits, cost = measure(model, remedy, eta, chips, args, data)
    facts = {
        "training": training,
        "remedy": remedy,
        "ends": where,
        "eta": eta,
        "steps": steps,
        "images": data.name,
    }
    facts |= dict.fromkeys(("epochs", "lr", "at", "T"), 0) | settings(args, training)
    facts |= cost
    facts["values"] = [float(v) for v in bits.mean(1)]
    packed = np.packbits(bits, axis=1)
    save(file, bits=packed, images=bits.shape[1], facts=json.dumps(facts))
    print(f"{name}: {100 * bits.mean():.2f} ± {100 * bits.mean(1).std():.2f}", flush=True)


def save(file: Path, **arrays: Any) -> None:
    """Write ``arrays`` as a whole: half a file, of a killed run, would be taken for a done cell."""
    draft = file.with_suffix(".draft")
    with draft.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    draft.replace(file)


def reference(args: argparse.Namespace, data: Data) -> None:
    """Measure the clean digital model on the same images, unless its file is there."""
    file = Path(args.out) / f"clean-{data.name}.npz"
    if file.exists():
        return
    right = Right()
    with torch.no_grad():
        for x, targets in data.test:
            right(data.clean(x), targets)
    bits = np.concatenate(right.bits)
    save(file, bits=np.packbits(bits), images=len(bits))


if __name__ == "__main__":
    main()
