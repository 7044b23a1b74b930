"""A small language model on analog arrays: trained here, put on chips, distilled, adapted.

    python examples/language_model.py --out results/language_model
    python examples/language_model.py --out runs/tiny --tiny         # seconds; no meaning

A decoder of two layers learns the characters of Python's own documentation strings. Its perplexity
(the exponential of the mean cross-entropy of the next character) is measured on strings that it did
not see: digital, on the target without noise, and on chips at once and after a day; then after
distillation from the digital model's logits, without labels, and after branches of low rank (LoRA)
have been trained beside the arrays of a programmed chip.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from docstrings import passages
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import (
    Target,
    TrainingNoise,
    adapt,
    analogize,
    digital_state,
    distill,
    noise_mode,
    program,
)
from analogize.evaluation.intervals import t_interval
from analogize.targets import load_target

LENGTH = 64
SYMBOLS = "\n" + "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    width: int
    steps: int
    windows: int
    distilled: int
    adapted: int


class Decoder(nn.Module):
    """A causal transformer over characters, (B, T) indices to (B T, symbols) logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(SYMBOLS), width)
        self.place = nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, batch_first=True, norm_first=True, activation="gelu"
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(SYMBOLS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Shapes: see the class; a token for every (batch, time) in that order."""
        length = tokens.shape[1]
        hidden = self.embed(tokens) + self.place.weight[:length]
        mask = torch.full((length, length), -torch.inf, device=tokens.device).triu(1)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask)
        logits: Tensor = self.head(self.norm(hidden)).flatten(0, 1)
        return logits


@torch.no_grad()
def generate(model: nn.Module, prompt: str, count: int) -> str:
    """The ``count`` likeliest characters after ``prompt``, one after the other."""
    tokens = encoded(prompt)
    for _ in range(count):
        window = tokens[-LENGTH:].unsqueeze(0)
        tokens = torch.cat([tokens, model(window)[-1].argmax().view(1)])
    return "".join(SYMBOLS[i] for i in tokens.tolist())


def encoded(text: str) -> Tensor:
    """Indices of the characters; what is not ASCII is left out."""
    return torch.tensor([SYMBOLS.index(c) for c in text if c in SYMBOLS])


def windows(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random windows of ``LENGTH + 1`` characters."""
    starts = torch.randint(len(text) - LENGTH, (count,), generator=generator)
    return torch.stack([text[s : s + LENGTH + 1] for s in starts.tolist()])


@torch.no_grad()
def perplexity(model: nn.Module, held: Tensor) -> float:
    """Of the next character, over all windows."""
    losses = [
        F.cross_entropy(model(part[:, :-1]), part[:, 1:].flatten()) for part in held.split(32)
    ]
    return math.exp(float(torch.stack(losses).mean()))


def train(model: nn.Module, text: Tensor, steps: int) -> None:
    """Ordinary training on random windows."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    for _ in range(steps):
        part = windows(text, 16, generator)
        loss = F.cross_entropy(model(part[:, :-1]), part[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def on_chips(model: nn.Module, held: Tensor, chips: int, times: list[str]) -> dict[str, Any]:
    """Perplexity on every chip at each time, with means and 95 % intervals."""
    found: dict[str, Any] = {}
    for when in times:
        values = []
        for seed in range(chips):
            program(model, seed, drift_time=when)
            values.append(perplexity(model, held))
        found[when] = summary(values)
    return found


def summary(values: list[float]) -> dict[str, Any]:
    """Values, their mean, and its 95 % interval."""
    interval = t_interval(values) if len(values) > 1 else None
    return {"mean": sum(values) / len(values), "interval": interval, "values": values}


def adapted(
    model: nn.Module,
    teacher: nn.Module,
    batches: list[Tensor],
    held: Tensor,
    chips: int,
    steps: int,
) -> dict[str, Any]:
    """LoRA on chips: rank 4 beside every array, trained to the digital logits; each from anew."""
    values, numbers = [], 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in range(chips):
        program(model, seed)
        cost = adapt(model, batches, teacher, head=False, steps=steps, rank=4, temperature=1.0)
        numbers = cost.parameters
        values.append(perplexity(model, held))
        restored(model, before)
    return summary(values) | {"parameters": numbers, "steps": steps}


def restored(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The digital part as it was: parameters, and no branches."""
    for module in model.modules():
        if hasattr(module, "side"):
            module.side = None
    model.load_state_dict(state)


def main() -> None:
    """Train, measure, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="pcm_joshi2020")
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--times", nargs="+", default=["0 s", "1 day"])
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    sizes = Sizes(16, 4, 8, 2, 2) if options.tiny else Sizes(64, 500, 48, 100, 40)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    texts = passages()
    split = len(texts) // 10
    held_text, text = (encoded("\n\n".join(part)) for part in (texts[:split], texts[split:]))
    held = windows(held_text, sizes.windows, torch.Generator().manual_seed(2))
    batches = [
        windows(text, 16, torch.Generator().manual_seed(3 + i))[:, :-1]
        for i in range(sizes.distilled)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"target": options.target, "characters": len(text)}

    def keep(name: str, row: Any) -> None:
        results[name] = row
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"{time.strftime('%H:%M')} {name:22} {json.dumps(row)[:120]}", flush=True)

    model, began = Decoder(sizes.width), time.perf_counter()
    train(model, text, sizes.steps)
    keep("training", {"steps": sizes.steps, "seconds": time.perf_counter() - began})
    model.eval()
    keep("digital", perplexity(model, held))
    keep("generated, digital", generate(model, "Return the ", 40))

    target = fitting(options.target)
    analog = analogize(model, target, batches[:4]).eval()
    with noise_mode(analog, "off"):
        keep("off", perplexity(analog, held))
    keep("chips", on_chips(analog, held, options.chips, options.times))
    program(analog, 0)
    keep("generated, chip", generate(analog, "Return the ", 40))
    few = max(2, options.chips // 4)
    keep("chips, LoRA", adapted(analog, model, batches[:16], held, few, sizes.adapted))

    began = time.perf_counter()
    trained = distilled(model, target, batches, epochs=1 if options.tiny else 3)
    keep("distillation", {"seconds": time.perf_counter() - began})
    keep("distilled, digital", perplexity(trained, held))
    analog = analogize(trained, target, batches[:4]).eval()
    keep("distilled, chips", on_chips(analog, held, options.chips, options.times))
    keep("distilled, chips, LoRA", adapted(analog, model, batches[:16], held, few, sizes.adapted))
    program(analog, 0)
    keep("generated, distilled", generate(analog, "Return the ", 40))


def distilled(model: Decoder, target: Target, batches: list[Tensor], epochs: int) -> Decoder:
    """A digital copy of ``model``, trained without labels to bear the noise of ``target``."""
    student = analogize(model, trained_for(target), batches[:4])
    distill(
        student,
        model,
        batches,
        epochs=epochs,
        hard=0.0,
        temperature=1.0,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 1e-3, weight_decay=0.0),
        noise=TrainingNoise(eta=0.02),
        accelerator="cpu",
        enable_progress_bar=False,
    )
    trained = Decoder(model.embed.embedding_dim)
    trained.load_state_dict(digital_state(student))
    return trained.eval()


def fitting(name: str) -> Target:
    """A built-in target with settings for transformers: ranges a column and a vector."""
    fields = load_target(name).model_dump(by_alias=True, mode="json")
    fields["weights"] |= {"range": {"kind": "absmax"}, "granularity": "channel"}
    fields["dac"] |= {"range": {"kind": "vector"}}
    fields["adc"] |= {"range": {"kind": "minmax"}}
    return Target.model_validate(fields)


def trained_for(target: Target) -> Target:
    """A Gaussian in the place of devices, and weights clipped to 2.5 sigma a column.

    The recipe of Analog Foundation Models, arXiv:2505.09663.
    """
    fields = target.model_dump(by_alias=True, mode="json")
    fields |= {"noise": [{"model": "gaussian", "eta": 0.015}], "conductance": None}
    fields["weights"] |= {"range": {"kind": "std", "multiple": 2.5}}
    return Target.model_validate(fields | {"compensation": "none"})


if __name__ == "__main__":
    main()
