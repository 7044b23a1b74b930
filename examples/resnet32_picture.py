"""One picture of ResNet-32's accuracy against noise, from the committed figures.

    python examples/resnet32_picture.py --out examples/results/resnet32/robustness.png

Reads results.json (two sigma: no retraining, noise injection, distillation), options.json (the
latter recalibrated) and tolerance-test2000.json (one sigma, recalibrated or refitted) of
examples/results/resnet32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results" / "resnet32"
COLOURS = {
    "no retraining": "tab:blue",
    "noise injection": "tab:orange",
    "distillation": "tab:green",
}
STYLES = {"refitted": ":", "one sigma": "--", "recalibrated": "-.", "": "-"}


def main() -> None:
    """Draw what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(RESULTS / "robustness.png"))
    path = parser.parse_args().out
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for label, rows in curves().items():
        points = sorted((row["eta"], 100 * row["mean"]) for row in rows)
        # The colour is the training's, the line what else a model was given.
        colour = next(colour for training, colour in COLOURS.items() if label.startswith(training))
        style = next(style for word, style in STYLES.items() if word in label)
        axes.plot(
            *zip(*points, strict=True), style, color=colour, marker="o", markersize=3.5, label=label
        )
    axes.set_xlabel(r"noise level $\eta = \sigma_N\,/\,(W_{\max} - W_{\min})$")
    axes.set_ylabel("test accuracy over chips, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)


def curves() -> dict[str, list[dict[str, Any]]]:
    """Levels and means of every line, by its name."""
    paper = _read("results")
    found = {
        name: [row for row in paper if row["method"] == name]
        for name in ("no retraining", "noise injection", "distillation")
    }
    clean = [row for row in paper if row["eta"] == 0]
    for name in ("noise injection", "distillation"):
        found[name] = [*clean, *found[name]]
    options = [row for row in _read("options") if row["option"] == "recalibrated"]
    found["distillation, chips recalibrated"] = options
    # The same epochs at the same level of noise, and of the refitted the longest training.
    for training, epochs, at in (
        ("clipped", 0, 0.0),
        ("noise injection", 5, 0.06),
        ("distillation", 5, 0.06),
    ):
        name = "no retraining" if training == "clipped" else training
        found[f"{name}, one sigma, chips recalibrated"] = _one_sigma(
            training, epochs, at, "recalibrated"
        )
    best = "distillation, one sigma, ends digital, head refitted"
    found[best] = _one_sigma("distillation", 7, 0.07, "refitted")
    return found


def _one_sigma(training: str, epochs: int, trained_at: float, remedy: str) -> list[dict[str, Any]]:
    """Levels and means of one training with the first seed."""
    names = ("training", "epochs", "at", "remedy", "range", "lr", "seed")
    keys = (training, epochs, trained_at, remedy, 1.0, 0.02 if trained_at else 0.0, 0)
    return [
        {"eta": row["eta"], "mean": sum(row["values"]) / len(row["values"])}
        for row in _read("tolerance-test2000")
        if tuple(row[name] for name in names) == keys
    ]


def _read(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


if __name__ == "__main__":
    main()
