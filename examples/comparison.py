"""What the recipes share: the paper's three-way comparison, its options, its JSON, table and plot.

    no retraining       the clean model, clipped (and quantized) and fine-tuned back without noise
    noise injection     retrained at each noise level, alpha = 0
    distillation        retrained at each noise level with a clean teacher, alpha = 1, T = 6

Noisy Machines, section 5. Everything is resumable: run the same command again after an
interruption.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from tolerance import tolerance
from torch import nn
from torch.optim import SGD

from analogize import AnalogModule, Evaluation, TrainingNoise, distill, evaluate

PAPER_ETAS = (0.02, 0.04, 0.057, 0.073, 0.11)
METHODS = {"noise injection": 0.0, "distillation": 1.0}
NO_RETRAINING = "no retraining"
Model = TypeVar("Model", bound=nn.Module)


def options(description: str, etas: Sequence[float], out: str) -> argparse.ArgumentParser:
    """The options that every recipe has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=True, help="the data folder")
    parser.add_argument("--epochs", type=int, help="epochs of each retraining")
    parser.add_argument("--clean-epochs", type=int, help="epochs of the clean training")
    parser.add_argument("--clipped-epochs", type=int, help="epochs without noise after clipping")
    parser.add_argument("--lr", type=float, help="first learning rate of each retraining")
    parser.add_argument("--temperature", type=float, default=6.0, help="T of distillation")
    parser.add_argument("--gradient-clip", type=float, help="largest norm of a step's gradient")
    parser.add_argument("--out", default=out, help="folder for checkpoints and results")
    parser.add_argument("--device", default="auto", help="Lightning's accelerator: cpu, cuda, auto")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile what is retrained (torch.compile); by default on a GPU only",
    )
    parser.add_argument("--precision", default="32-true", help="Lightning's precision")
    parser.add_argument("--target", help="a target's name or YAML file; the paper's by default")
    parser.add_argument(
        "--etas", type=float, nargs="+", default=list(etas), help="noise levels, in this order"
    )
    parser.add_argument("--instances", type=int, default=50, help="chips a level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use so many images a split (to try it out)")
    parser.add_argument(
        "--test-images", type=int, help="measure on so many test images, spread evenly; all else"
    )
    return parser


def sgd(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 1e-4) -> SGD:
    """SGD with momentum 0.9."""
    return SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)


@dataclass
class Comparison:
    """The comparison of one model on one data set.

    Args:
        base: the rewritten model, fine-tuned without noise: what "no retraining" means, and what
            every retraining starts from.
        teacher: the clean model.
        train: training batches.
        test: test batches.
        args: the recipe's options.
        epochs: epochs of each retraining.
        lr: first learning rate of the retraining, decaying with a cosine.
        notes: anything else to write into the JSON.
    """

    base: AnalogModule
    teacher: nn.Module
    train: Any
    test: Any
    args: argparse.Namespace
    epochs: int
    lr: float
    notes: dict[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Retrain and evaluate all; write ``results.json`` and ``results.png``, print the table."""
        started = time.monotonic()
        out = Path(self.args.out)
        plain = self._evaluate(self.base, [0.0, *sorted(self.args.etas)], "no-retraining")
        rows = [{"method": NO_RETRAINING, **row} for row in per_chip(plain)]
        for eta in self.args.etas:
            for method, alpha in METHODS.items():
                rows += self._retrained(method, alpha, eta)
                self._write(out, rows, started)
        result = self._write(out, rows, started)
        draw(result, out / "results.png")
        print_table(result)
        return result

    def cross(self, eta: float) -> None:
        """Evaluate the models retrained at ``eta`` at every level; write ``cross.json``."""
        levels = [0.0, *sorted(self.args.etas)]
        rows = []
        for method, alpha in METHODS.items():
            student = self._retrain(method, alpha, eta)
            found = self._evaluate(student, levels, f"cross-{method.replace(' ', '-')}-{eta:g}")
            rows += [{"method": method, "trained_at": eta, **row} for row in per_chip(found)]
        (Path(self.args.out) / "cross.json").write_text(json.dumps(rows, indent=1) + "\n")

    def _retrained(self, method: str, alpha: float, eta: float) -> list[dict[str, Any]]:
        student = self._retrain(method, alpha, eta)
        found = self._evaluate(student, [0.0, eta], f"{method.replace(' ', '-')}-{eta:g}")
        clean, noisy = per_chip(found)
        print(f"{method}, eta {eta:g}: {noisy['mean']:.4f} on chips, {clean['mean']:.4f} without")
        return [{"method": method, **noisy, "noise_off": clean["mean"]}]

    def _retrain(self, method: str, alpha: float, eta: float) -> AnalogModule:
        name = f"{method.replace(' ', '-')}-{eta:g}"
        return distill(
            compiled(copy.deepcopy(self.base), self.args),
            compiled(copy.deepcopy(self.teacher), self.args) if alpha else None,
            self.train,
            self.test,
            epochs=self.epochs,
            alpha=alpha,
            temperature=self.args.temperature,
            gradient_clip_val=self.args.gradient_clip,
            optimizer=partial(sgd, lr=self.lr),
            noise=TrainingNoise(eta=eta),
            chips=1,
            seed=self.args.seed,
            resume=Path(self.args.out) / f"{name}.ckpt",
            **trainer(self.args) | {"callbacks": [History(Path(self.args.out) / f"{name}.jsonl")]},
        )

    def _evaluate(self, model: nn.Module, etas: list[float], name: str) -> Evaluation:
        return measure(model, self.test, etas, self.args, name)

    def _write(self, out: Path, rows: list[dict[str, Any]], started: float) -> dict[str, Any]:
        result = {
            "command": command(),
            "options": {k: v for k, v in vars(self.args).items() if k not in ("data", "out")},
            "epochs": self.epochs,
            "lr": self.lr,
            **self.notes,
            "tolerance": tolerances(rows),
            "rows": rows,
            "seconds_of_this_call": round(time.monotonic() - started),
            "versions": {p: metadata.version(p) for p in ("analogize", "torch", "lightning")},
            "hardware": hardware(),
        }
        (out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        return result


def per_chip(found: Evaluation) -> list[dict[str, Any]]:
    """A row a level, with the accuracy of every chip."""
    levels = zip(found.to_rows(), found.levels, strict=True)
    return [row | {"values": list(level.values)} for row, level in levels]


def tolerances(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each method: the largest eta within one point of the clipped model without noise."""
    clean = next(r for r in rows if r["method"] == NO_RETRAINING and r["eta"] == 0)
    found = {}
    for name in (NO_RETRAINING, *METHODS):
        curve = sorted((r for r in rows if r["method"] == name and r["eta"]), key=_eta)
        found[name] = tolerance([clean, *curve], clean["mean"] - 0.01)
    return found


def measure(
    model: nn.Module,
    test: Any,
    etas: list[float],
    args: argparse.Namespace,
    name: str,
    recalibration: Any = None,
) -> Evaluation:
    """Accuracy on chips, on the device and in the precision of training; kept as ``name``.json."""
    device = device_of(args)
    with torch.autocast(device, torch.bfloat16, enabled=args.precision == "bf16-mixed"):
        return evaluate(
            model,
            test,
            eta=etas,
            instances=args.instances,
            seed=args.seed,
            device=device,
            resume=Path(args.out) / f"{name}.json",
            recalibration=recalibration,
            progress=False,
        )


class History(Callback):
    """Appends a line of JSON after every epoch: losses and accuracies, for Fig. 4b."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what was measured in this epoch."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with self.file.open("a") as stream:
            stream.write(json.dumps({"epoch": trainer.current_epoch} | found) + "\n")


def device_of(args: argparse.Namespace) -> str:
    """Where models train and are measured, and where the CIFAR-10 recipes keep their images."""
    return "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"


def compiled(model: Model, args: argparse.Namespace) -> Model:
    """``model`` itself, whose calls are compiled from now on if the options say so."""
    if device_of(args) == "cuda" if args.compile is None else args.compile:
        model.compile()
    return model


def trainer(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments for Lightning's Trainer."""
    return {
        "accelerator": args.device,
        "precision": args.precision,
        "enable_progress_bar": sys.stderr.isatty(),
    }


def command() -> str:
    """The command of this run, without where this machine keeps data and results."""
    words = ["python", f"examples/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    for option, stand_in in (("--data", "DIR"), ("--out", "OUT")):
        if option in words[:-1]:
            words[words.index(option) + 1] = stand_in
    return shlex.join(words)


def hardware() -> str:
    """The processor or GPU, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {threads} torch threads"


def print_table(result: dict[str, Any]) -> None:
    """One row a level, one column a method: mean and 95 % interval in percent."""
    table = Table(title="accuracy on programmed chips, %: mean [95 % interval]")
    table.add_column("eta", justify="right")
    names = [NO_RETRAINING, *METHODS]
    for name in names:
        table.add_column(name, justify="right")
    for eta in sorted({row["eta"] for row in result["rows"]}):
        cells = {r["method"]: _cell(r) for r in result["rows"] if r["eta"] == eta}
        table.add_row(f"{eta:g}", *(cells.get(name, "-") for name in names))
    Console().print(table)
    for name, at in result["tolerance"].items():
        more = "at least " if at["is_lower_bound"] else ""
        print(f"within one point of {NO_RETRAINING} at eta 0: {name} up to {more}{at['eta']:.4f}")


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy against eta as in the paper's figures; error bars are one std over chips."""
    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    for name in (NO_RETRAINING, *METHODS):
        rows = sorted((r for r in result["rows"] if r["method"] == name), key=_eta)
        values = [(r["eta"], 100 * r["mean"], 100 * (r["std"] or 0)) for r in rows]
        x, y, error = zip(*values, strict=True)
        axes.errorbar(x, y, error, label=name, marker="o", markersize=3, capsize=3)
    axes.set_xlabel(r"noise level $\eta = \sigma_N\,/\,(W_{\max} - W_{\min})$")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.figure.savefig(path, dpi=150)


def _eta(row: dict[str, Any]) -> float:
    return float(row["eta"])


def _cell(row: dict[str, Any]) -> str:
    if row["deterministic"] or row["low"] is None:
        return f"{100 * row['mean']:.2f}"
    return f"{100 * row['mean']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"
