"""Figure 2 of Noisy Machines: what weight noise does to LeNet-5 on MNIST.

    python examples/fig2_lenet5.py --data DIR --out DIR

Panel (a): l_var, l_bias and l_pretrained on the whole test set over sigma_N / sigma_W, from 100
chips a level. Panel (b): mutual information between input and output, from 200 training images and
100 chips. The network is trained first (a few minutes on one core) unless --weights names a file.

Writes decomposition.json, information.json, fig2.png, run.json (command, versions, claims) and the
weights into --out. DIR holds MNIST in torchvision's layout. A level that is already in --out is not
measured again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib.figure import Figure
from torch import nn

from analogize import analogize
from analogize.analyze import Decomposition, Information, bias_variance, mutual_information
from analogize.data import ImageTensors, load_dataset
from analogize.models import LeNet5
from analogize.targets.spec import FixedSNRNoise, Target

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
# Section 4.1: Gaussian noise of a fixed sigma_N / sigma_W in each layer, and nothing else.
TARGET = Target(
    name="fixed_snr",
    description="Gaussian weight noise of a fixed ratio to each layer's weights; no quantization.",
    noise=(FixedSNRNoise(ratio=0.1),),
    references=("Noisy Machines, section 4.1",),
)

R = TypeVar("R", Decomposition, Information)


def main() -> None:
    """Train or load, measure every level, draw, write."""
    options = parse()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    train = load_dataset("mnist", options.data, train=True)
    test = load_dataset("mnist", options.data, train=False)
    model = LeNet5()
    weights = options.weights or out / "lenet5.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights, weights_only=True))
    else:
        fit(model, train, options.epochs, options.seed)
        torch.save(model.state_dict(), weights)
    clean = accuracy(model, test)
    print(f"accuracy without noise: {clean:.2%} (the paper: 99.19%)")
    analog = analogize(model.eval(), TARGET, example_inputs=test[0][0].unsqueeze(0))

    levels = [float(text) for text in options.levels.split(",")] if options.levels else LEVELS
    batches = test.take(options.limit).batches(500)
    chosen = torch.Generator().manual_seed(options.seed)
    inputs = train.batches(options.samples, generator=chosen)
    random = [next(iter(inputs))]
    losses: list[Decomposition] = []
    shares: list[Information] = []
    count, seed = options.instances, options.seed
    for level in levels:
        start = time.monotonic()
        make_loss = partial(bias_variance, analog, batches, [level], count, seed=seed)
        make_share = partial(
            mutual_information, analog, random, [level], options.samples, count, seed=seed
        )
        losses.append(once(out / f"levels/loss-{level:g}.json", Decomposition, make_loss))
        shares.append(once(out / f"levels/information-{level:g}.json", Information, make_share))
        spent = time.monotonic() - start
        print(f"{level:g}: {losses[-1].to_rows()[0]} ({spent:.0f} s)", flush=True)
    loss = losses[0].model_copy(update={"rows": tuple(x.rows[0] for x in losses)})
    share = shares[0].model_copy(update={"rows": tuple(x.rows[0] for x in shares)})
    loss.save(out / "decomposition.json")
    share.save(out / "information.json")
    draw(loss, share, out / "fig2.png")
    (out / "run.json").write_text(json.dumps(record(loss, share, clean), indent=1) + "\n")
    print((out / "run.json").read_text())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("examples/results/fig2"))
    parser.add_argument("--weights", type=Path, help="state_dict of a LeNet5; not trained then")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--instances", type=int, default=100, help="chips a level")
    parser.add_argument("--samples", type=int, default=200, help="inputs of panel (b)")
    parser.add_argument("--limit", type=int, help="test images of panel (a); all by default")
    parser.add_argument("--levels", help="sigma_N / sigma_W, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def fit(model: nn.Module, train: ImageTensors, epochs: int, seed: int) -> None:
    """Train with Adam and a cosine schedule, without noise, as the paper's pretrained model."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    batches = train.batches(128, generator=torch.Generator().manual_seed(seed), drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for epoch in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, data: ImageTensors) -> float:
    """Share of images classified correctly."""
    model.eval()
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches(500)) / len(data)


def once(path: Path, kind: type[R], make: Callable[[], R]) -> R:
    """What ``path`` holds, or what ``make`` gives, kept there."""
    if path.exists():
        return kind.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = make()
    made.save(path)
    return made


def draw(loss: Decomposition, share: Information, path: Path) -> None:
    """Both panels side by side."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    loss.plot(left)
    left.set_title("(a) loss terms on the test set")
    share.plot(right)
    right.set_title("(b) information between input and output")
    for axes in (left, right):
        axes.set_xlabel(r"$\sigma_N\,/\,\sigma_W$")
    figure.savefig(path, dpi=120)


def record(loss: Decomposition, share: Information, clean: float) -> dict[str, object]:
    """Command, versions, and the paper's claims beside what was found."""
    crossover = loss.crossover()
    last = {name: round(share.normalized(name)[-1].value, 4) for name in share.reference}
    return {
        "command": " ".join(["python", *sys.argv]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("analogize", "torch", "numpy")},
        "claims": [
            {"claim": "accuracy without noise", "paper": 0.9919, "found": clean},
            {"claim": "l_var overtakes l_bias at sigma_N / sigma_W", "paper": 0.6}
            | {"found": None if crossover is None else round(crossover, 3)},
            {"claim": "normalized information decays towards zero", "paper": "yes"}
            | {"at": share.rows[-1].eta, "found": last}
            | {"binned_floor": round(share.rows[-1].floor / share.reference["binned"], 4)},
        ],
    }


if __name__ == "__main__":
    main()
