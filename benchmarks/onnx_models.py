"""Four public architectures as annotated ONNX in both forms: validity, differences, size.

    python benchmarks/onnx_models.py [--models resnet18 vit_b_16 ...] [--batch 4]

Random weights; BatchNorm is given the statistics of random images first. Each file is checked with
``onnx.checker`` (full_check), run by onnxruntime on a batch it was not exported with, read by
``read_regions`` and ``load_onnx``, and compared with torch's output without noise.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from analogize import analogize, export_onnx, load_onnx, noise_mode, read_regions
from analogize.onnx.manifest import Form


class TokenTransformer(nn.Module):
    """Token ids to logits: an embedding, torch's own encoder layers, and a head."""

    def __init__(self, tokens: int = 100, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shapes: (B, T) to (B, T, tokens)."""
        logits: Tensor = self.head(self.encoder(self.embed(tokens)))
        return logits


def vit() -> nn.Module:
    """ViT-B/16; torchvision makes its head zero, and zeros have no range."""
    model = torchvision.models.vit_b_16()
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


def images(size: int) -> Callable[[int], Tensor]:
    """A maker of batches of random images."""
    return lambda batch: torch.randn(batch, 3, size, size)


def tokens(batch: int) -> Tensor:
    """A batch of random sentences."""
    return torch.randint(100, (batch, 12))


# What to build, random inputs, target.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], str]] = {
    "resnet18": (torchvision.models.resnet18, images(224), "pcm_4bit"),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, images(224), "pcm_8bit"),
    "vit_b_16": (vit, images(224), "pcm_8bit"),
    "transformer": (TokenTransformer, tokens, "pcm_8bit"),
    "resnet18, tiles": (torchvision.models.resnet18, images(64), "reram_wan2022"),
}


@dataclass(frozen=True)
class Row:
    """One file and what was found of it."""

    model: str
    form: str
    megabytes: float
    nodes: int
    regions: int
    promise: str
    differing: str
    largest: float
    loaded: float


def measure(name: str, batch: int, folder: Path) -> Iterator[Row]:
    """Export one model in both forms and compare."""
    build, inputs, target = MODELS[name]
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        model(inputs(4))
    analog = analogize(model.eval(), target, [inputs(4)])
    x = inputs(batch)
    with torch.no_grad(), noise_mode(analog, "off"):
        expected = analog(x).numpy()
    path = folder / "model.onnx"
    for form in get_args(Form):
        exported = export_onnx(analog, path, inputs(1), form)
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(str(path), options)
        actual = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        with torch.no_grad():
            loaded = load_onnx(path)(x).numpy()
        difference = np.abs(actual - expected)
        yield Row(
            model=name,
            form=form,
            megabytes=exported.size / 1e6,
            nodes=len(onnx.load(path).graph.node),
            regions=len(read_regions(path)),
            promise="equal" if exported.numerics.exact else "near",
            differing=f"{(difference > 0).sum()} of {difference.size}",
            largest=float(difference.max() / np.abs(expected).max()),
            loaded=float(np.abs(loaded - expected).max() / np.abs(expected).max()),
        )
        del session, loaded
        gc.collect()


def main() -> None:
    """Measure every model; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    columns = ("model", "form", "MB", "nodes", "regions", "promised", "outputs that differ")
    table = Table(*columns, "largest / max", "load_onnx: largest / max")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            for row in measure(name, options.batch, Path(folder)):
                table.add_row(
                    row.model,
                    row.form,
                    f"{row.megabytes:.2f}",
                    str(row.nodes),
                    str(row.regions),
                    row.promise,
                    row.differing,
                    f"{row.largest:.2g}",
                    f"{row.loaded:.2g}",
                )
                print(row, flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
