"""A target for a device of your own: from measured conductances to accuracy over chips.

    python examples/new_target.py                          # made-up measurements
    python examples/new_target.py --measurements MY.csv    # your own

1. A CSV with one row a device: the conductance asked for (``target``) and the one read
   (``measured``), in microsiemens. Without --measurements one is drawn from a made-up device.
2. ``fit_programming_noise`` (or ``analogize targets fit MY.csv --out my_device.yaml`` in a shell)
   fits the standard deviation of the readings as a polynomial of the conductance.
3. A second YAML file extends the fitted one with what the measurements cannot know: converters and
   the size of a tile.
4. Any model runs on it. Here: a small classifier of scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from analogize import analogize, evaluate
from analogize.devices.fit import fit_programming_noise

CHIP = """\
schema: 1
extends: my_device.yaml
name: my_chip
description: The device of my_device.yaml on 64 x 64 tiles with 6-bit converters.
dac: {bits: 6}
adc: {bits: 6}
array: {rows: 64, cols: 64, tiling: true}
"""


def main() -> None:
    """Measure (or make up), fit, write the target, use it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measurements", type=Path, help="CSV with columns target, measured")
    parser.add_argument("--degree", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/new_target"))
    parser.add_argument("--instances", type=int, default=20, help="chips")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    measurements = options.measurements or make_up(out / "measurements.csv")

    fit = fit_programming_noise(measurements, options.degree)
    print(f"sigma(G) = polynomial {fit.coefficients} of G / {fit.reference:g} uS")
    print(f"chi-square per degree of freedom: {fit.chi_square:.2f} (about 1 where the curve fits)")
    (out / "my_device.yaml").write_text(fit.to_target("my_device").to_yaml())
    (out / "my_chip.yaml").write_text(CHIP)

    train, test = digits()
    model = classifier(train)
    analog = analogize(model, out / "my_chip.yaml", calibration=[train])
    print(evaluate(analog, [test], instances=options.instances))


def make_up(path: Path) -> Path:
    """Write the readings of a made-up device: 200 at each of 9 levels, sigma 0.5 to 1.5 uS."""
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["target", "measured"])
        for target in np.linspace(2.0, 50.0, 9):
            x = target / 50.0
            for measured in draw.normal(target, 0.5 + 2.0 * x - x**2, 200):
                rows.writerow([f"{target:g}", f"{measured:.4f}"])
    return path


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test batch of scikit-learn's digits."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def classifier(train: tuple[Tensor, Tensor]) -> nn.Module:
    """A network of one hidden layer, trained without noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(train[0]), train[1]))
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
