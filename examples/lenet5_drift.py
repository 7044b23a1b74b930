"""LeNet-5 over time on phase-change memory: what drift costs, and what compensation gives back.

    python examples/lenet5_drift.py --data DIR

The trained network of results/fig2 runs on ``pcm_joshi2020`` from the first reading to a year
after it, each time on the same 50 chips, without compensation, with one factor an array (the
target's own) and with one a column. Writes NAME.json for each, drift.png and table.txt into --out.
DIR holds MNIST in torchvision's layout. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch
from matplotlib.figure import Figure

from analogize import analogize, evaluate
from analogize.data import load_dataset
from analogize.evaluation.plot import write_figure
from analogize.models import LeNet5
from analogize.targets.spec import Compensation

HERE = Path(__file__).parent
TIMES = ["0 s", "1 s", "1 minute", "1 hour", "1 day", "1 week", "1 month", "1 year"]


def main() -> None:
    """Load, rewrite, calibrate, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--weights", type=Path, default=HERE / "results/fig2/lenet5.pt")
    parser.add_argument("--target", default="pcm_joshi2020")
    parser.add_argument("--out", type=Path, default=HERE / "results/drift")
    parser.add_argument("--instances", type=int, default=50, help="chips")
    parser.add_argument("--limit", type=int, help="test images; all by default")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    model = LeNet5()
    model.load_state_dict(torch.load(options.weights, weights_only=True))
    calibration = load_dataset("mnist", options.data, train=True, limit=2000).batches(500)
    test = load_dataset("mnist", options.data, train=False, limit=options.limit).batches(500)
    analog = analogize(model.eval(), options.target, calibration)

    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    tables = []
    for rule in get_args(Compensation):
        result = evaluate(
            analog,
            test,
            instances=options.instances,
            drift_time=TIMES,
            compensation=rule,
            resume=options.out / f"{rule}.json",
        )
        result.plot(ax=axes, label=f"compensation: {rule}")
        tables.append(f"compensation: {rule}\n{result}\n")
        print(tables[-1], flush=True)
    axes.set_title(f"LeNet-5 on {options.target}, {options.instances} chips")
    write_figure(axes, options.out / "drift.png")
    (options.out / "table.txt").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
