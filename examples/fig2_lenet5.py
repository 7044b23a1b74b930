"""Figure 2 of Noisy Machines: what weight noise does to LeNet-5 on MNIST.

    python examples/fig2_lenet5.py --data DIR
    python examples/fig2_lenet5.py --data DIR --network wide --crossings 2

Panel (a): l_var, l_bias and l_pretrained on the whole test set over sigma_N / sigma_W, from 100
chips a level. Panel (b): mutual information between input and output, from 200 training images and
100 chips. The paper does not say which LeNet-5 it used: --network lecun is that of LeCun et al.,
wide the one of Caffe's examples, trained as there. The network is trained first (a few minutes on
one core) unless --weights names a file; --crossings trains so many more, each from a seed of its
own, and measures where l_var overtakes l_bias for them too, with 20 chips a level.

Writes decomposition.json, information.json, fig2.png, run.json (command, versions, claims) and the
weights into --out. DIR holds MNIST in torchvision's layout. What is already in --out is not trained
or measured again, so an interrupted run goes on; other settings want another --out.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib.figure import Figure
from settings import claim, digest
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from analogize import analogize
from analogize.analyze import Decomposition, Information, bias_variance, mutual_information
from analogize.data import ImageTensors, load_dataset
from analogize.evaluation.data_digest import data_digest
from analogize.models import CaffeLeNet, LeNet5
from analogize.targets.spec import FixedSNRNoise, Target

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
# Section 4.1: Gaussian noise of a fixed sigma_N / sigma_W in each layer, and nothing else.
TARGET = Target(
    name="fixed_snr",
    description="Gaussian weight noise of a fixed ratio to each layer's weights; no quantization.",
    noise=(FixedSNRNoise(ratio=0.1),),
    references=("Noisy Machines, section 4.1",),
)

# Options that choose which files to make; what --weights names counts by its content.
NAMED = ("crossings", "levels", "information_levels", "weights")
CROSSING_LEVELS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CROSSING_CHIPS = 20

R = TypeVar("R", Decomposition, Information)


def adam(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Adam with a cosine schedule."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return optimizer, CosineAnnealingLR(optimizer, steps)


def caffe_solver(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Momentum, weight decay and "inv" schedule of Caffe's lenet_solver.prototxt."""
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    return optimizer, LambdaLR(optimizer, lambda step: (1 + 1e-4 * step) ** -0.75)


@dataclass(frozen=True)
class Network:
    """A network that goes by the name of LeNet-5, and how it is trained."""

    make: Callable[[], nn.Module]
    weights: str
    out: str
    optimizer: Callable[[nn.Module, int], tuple[torch.optim.Optimizer, LRScheduler]]
    batch_size: int
    epochs: int


NETWORKS = {
    "lecun": Network(LeNet5, "lenet5.pt", "examples/results/fig2", adam, 128, 12),
    "wide": Network(CaffeLeNet, "wide.pt", "examples/results/fig2/wide", caffe_solver, 64, 10),
}


def main() -> None:
    """Train or load, measure every level, draw, write."""
    options = parse()
    network, count, seed = NETWORKS[options.network], options.instances, options.seed
    out: Path = options.out
    torch.set_num_threads(options.threads)
    train = load_dataset("mnist", options.data, train=True)
    # Levels are kept whole, with their chips.
    facts = {"data": data_digest(train), "instances": str(count)}
    claim(options, *NAMED, **facts)
    (out / "levels").mkdir(exist_ok=True)
    test = load_dataset("mnist", options.data, train=False)
    weights: Path = options.weights or out / network.weights
    model = trained(network, weights, train, options.epochs, seed)
    claim(options, *NAMED, **facts, weights=digest(weights.read_bytes()))
    clean = accuracy(model, test)
    print(f"accuracy without noise: {clean:.2%} (the paper: 99.19%)")
    analog = analogize(model, TARGET, example_inputs=test[0][0].unsqueeze(0))

    # Channels last take a third of the time on wide, and change sums by their rounding only.
    batches = [
        (x.to(memory_format=torch.channels_last), y)
        for x, y in test.take(options.limit).batches(500)
    ]
    chosen = torch.Generator().manual_seed(seed)
    random = [next(iter(train.batches(options.samples, generator=chosen)))]
    losses: list[Decomposition] = []
    shares: list[Information] = []
    for level in options.information_levels or options.levels:
        make_share = partial(
            mutual_information, analog, random, [level], options.samples, count, seed=seed
        )
        shares.append(once(out / f"levels/information-{level:g}.json", Information, make_share))
    for level in options.levels:
        start = time.monotonic()
        make_loss = partial(bias_variance, analog, batches, [level], count, seed=seed)
        losses.append(once(out / f"levels/loss-{level:g}.json", Decomposition, make_loss))
        spent = time.monotonic() - start
        print(f"{level:g}: {losses[-1].to_rows()[0]} ({spent:.0f} s)", flush=True)
    loss = losses[0].model_copy(update={"rows": tuple(x.rows[0] for x in losses)})
    share = shares[0].model_copy(update={"rows": tuple(x.rows[0] for x in shares)})
    loss.save(out / "decomposition.json")
    share.save(out / "information.json")
    draw(loss, share, out / "fig2.png")
    others = [
        crossing(network, out, train, test, batches, other, options.epochs)
        for other in range(seed + 1, seed + 1 + options.crossings)
    ]
    text = json.dumps(record(loss, share, clean) | {"other_trainings": others}, indent=1)
    (out / "run.json").write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--network", choices=NETWORKS, default="lecun")
    parser.add_argument("--out", type=Path, help="by default the network's folder of results")
    parser.add_argument("--weights", type=Path, help="its state_dict; not trained then")
    parser.add_argument("--epochs", type=int, help="12 for lecun, 10 for wide by default")
    parser.add_argument("--crossings", type=int, default=0, help="further training seeds")
    parser.add_argument("--instances", type=int, default=100, help="chips a level")
    parser.add_argument("--samples", type=int, default=200, help="inputs of panel (b)")
    parser.add_argument("--limit", type=int, help="test images of panel (a); all by default")
    levels = {"type": numbers, "metavar": "LEVELS"}
    parser.add_argument("--levels", **levels, default=LEVELS, help="sigma_N / sigma_W, by commas")
    parser.add_argument("--information-levels", **levels, help="of panel (b), by default the same")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out = options.out or Path(NETWORKS[options.network].out)
    return options


def numbers(text: str) -> tuple[float, ...]:
    """Numbers that commas separate."""
    return tuple(map(float, text.split(",")))


def trained(
    network: Network, weights: Path, train: ImageTensors, epochs: int | None, seed: int
) -> nn.Module:
    """The network in eval mode with ``weights``, trained and kept there first where need be.

    Trained without noise, as the paper's pretrained model.
    """
    torch.manual_seed(seed)
    model = network.make()
    if weights.exists():
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model.eval()
    epochs = epochs or network.epochs
    order = torch.Generator().manual_seed(seed)
    batches = train.batches(network.batch_size, generator=order, drop_last=True)
    optimizer, schedule = network.optimizer(model, epochs * len(batches))
    for epoch in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            scores = model(x.to(memory_format=torch.channels_last))
            torch.autograd.backward(nn.functional.cross_entropy(scores, y))
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}", flush=True)
    torch.save(model.state_dict(), weights)
    return model.eval()


def crossing(
    network: Network,
    out: Path,
    train: ImageTensors,
    test: ImageTensors,
    batches: list[tuple[Tensor, Tensor]],
    seed: int,
    epochs: int | None,
) -> dict[str, object]:
    """Accuracy and crossing of the network trained from ``seed``."""
    model = trained(network, out / "levels" / f"training-{seed}.pt", train, epochs, seed)
    analog = analogize(model, TARGET, example_inputs=test[0][0].unsqueeze(0))
    make = partial(bias_variance, analog, batches, CROSSING_LEVELS, CROSSING_CHIPS, seed=seed)
    found = once(out / "levels" / f"crossing-{seed}.json", Decomposition, make).crossover()
    return {
        "seed": seed,
        "accuracy": accuracy(model, test),
        "crossing": None if found is None else round(found, 3),
    }


@torch.no_grad()
def accuracy(model: nn.Module, data: ImageTensors) -> float:
    """Share of images classified correctly."""
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches(500)) / len(data)


def once(path: Path, kind: type[R], make: Callable[[], R]) -> R:
    """What ``path`` holds, or what ``make`` gives, kept there."""
    if path.exists():
        return kind.load(path)
    made = make()
    made.save(path)
    return made


def draw(loss: Decomposition, share: Information, path: Path) -> None:
    """Both panels side by side."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    loss.plot(left)
    left.set_title("(a) loss terms on the test set", pad=42)  # above the legends
    share.plot(right)
    right.set_title("(b) information between input and output", pad=42)
    for axes in (left, right):
        axes.set_xlabel(r"$\sigma_N\,/\,\sigma_W$")
    figure.savefig(path, dpi=120)


def record(loss: Decomposition, share: Information, clean: float) -> dict[str, object]:
    """Command, versions, and the paper's claims beside what was found."""
    crossover = loss.crossover()
    whole = {name: value for name, value in share.reference.items() if value > 0}
    last = {name: round(getattr(share.rows[-1], name).value / whole[name], 4) for name in whole}
    floor = round(share.rows[-1].floor / whole["binned"], 4) if "binned" in whole else None
    return {
        "command": " ".join(["python", *sys.argv]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("analogize", "torch", "numpy")},
        "claims": [
            {"claim": "accuracy without noise", "paper": 0.9919, "found": clean},
            {"claim": "l_var overtakes l_bias at sigma_N / sigma_W", "paper": 0.6}
            | {"found": None if crossover is None else round(crossover, 3)},
            {"claim": "normalized information decays towards zero", "paper": "yes"}
            | {"at": share.rows[-1].eta, "found": last, "binned_floor": floor},
        ],
    }


if __name__ == "__main__":
    main()
