"""The table of resnet32_tolerance.py: every cell, what each training tolerates, and the ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tolerance import two_way, two_way_ratio

POINTS = (1, 3, 5)
# What tells the curves of the table apart, and for each its cells by eta.
KEYS = (
    "training",
    "T",
    "range",
    "clipped",
    "epochs",
    "lr",
    "at",
    "seed",
    "ends",
    "remedy",
    "steps",
)
Groups = dict[tuple[Any, ...], dict[float, tuple[dict[str, Any], np.ndarray]]]


def read_reference(out: Path, images: str) -> np.ndarray:
    """Whether the clean model was right on each image."""
    with np.load(out / f"clean-{images}.npz") as kept:
        return np.unpackbits(kept["bits"], count=int(kept["images"])).astype(bool)


def read(out: Path, images: str) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Every cell in ``out``: its facts, and which answers were right (chips, images)."""
    found = []
    for file in sorted(out.glob(f"*seed*-{images}-*.npz")):
        with np.load(file) as kept:
            facts = json.loads(str(kept["facts"]))
            bits = np.unpackbits(kept["bits"], axis=1, count=int(kept["images"]))
        found.append((facts, bits.astype(bool)))
    return found


def summarise(out: Path, images: str) -> None:
    """Write ``tolerance-IMAGES.json`` and print accuracies and tolerances of all cells."""
    cells = read(out, images)
    groups: Groups = {}
    for facts, bits in cells:
        key = tuple(facts[k] for k in KEYS)
        groups.setdefault(key, {})[facts["eta"]] = facts, bits
    levels = sorted({facts["eta"] for facts, _ in cells})
    table = Table(title="accuracy on programmed chips, %, and tolerance")
    varied = [k for k in range(len(KEYS)) if len({key[k] for key in groups}) > 1]
    for word in (
        *(KEYS[k] for k in varied),
        *map("{:g}".format, levels),
        *map("-{}".format, POINTS),
    ):
        table.add_column(word, no_wrap=True)
    clean = read_reference(out, images)
    rows = []
    for key, found in sorted(groups.items(), key=str):
        curve = [(eta, found[eta][1]) for eta in levels if eta in found]
        at = {p: two_way(curve, clean, p) for p in POINTS} if len(curve) > 1 else {}
        shown = (f"{100 * found[eta][1].mean():.2f}" if eta in found else "" for eta in levels)
        names = (str(key[k]) for k in varied)
        table.add_row(*names, *shown, *(_tolerance(at.get(p)) for p in POINTS))
        rows += [{**facts, "tolerance": at} for facts, _ in (found[eta] for eta in sorted(found))]
    Console(width=260).print(table)
    print(f"the clean digital model: {100 * clean.mean():.2f} % of {len(clean)} images")
    ratios = _ratios(groups, clean)
    text = json.dumps({"clean": float(clean.mean()), "ratios": ratios, "rows": rows}, indent=1)
    (out / f"tolerance-{images}.json").write_text(text + "\n")


def _ratios(groups: Groups, clean: np.ndarray) -> list[dict[str, Any]]:
    """Print and return how many times as much noise distillation tolerates as noise injection.

    Between trainings that differ in nothing else, by the levels that both were measured at.
    """
    found = []
    for key, cells in sorted(groups.items(), key=str):
        other = groups.get(("noise injection", 0, *key[2:]))
        if key[0] != "distillation" or other is None:
            continue
        levels = sorted(cells.keys() & other.keys())
        curves = [[(eta, group[eta][1]) for eta in levels] for group in (cells, other)]
        for points in POINTS:
            limit = clean.mean() - points / 100
            # Of a curve that stays above, the tolerance is not known.
            if not all(min(bits.mean() for _, bits in curve) < limit for curve in curves):
                continue
            ratio, low, high = two_way_ratio(curves[0], curves[1], clean, points)
            fact = dict(zip(KEYS, key, strict=True)) | {"points": points, "levels": levels}
            found.append(fact | {"ratio": ratio, "low": low, "high": high})
            told = ", ".join(f"{name} {fact[name]}" for name in KEYS if fact[name])
            print(
                f"distillation tolerates {ratio:.3f} [{low:.3f}, {high:.3f}] times the noise of "
                f"noise injection within {points} points ({told})"
            )
    return found


def _tolerance(at: dict[str, float | bool] | None) -> str:
    if at is None:
        return "-"
    more = ">=" if at["is_lower_bound"] else ""
    return f"{more}{at['eta']:.4f} [{at['low']:.4f}, {at['high']:.4f}]"
