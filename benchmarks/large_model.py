"""A model of a billion parameters: seconds and memory of rewriting it.

    python benchmarks/large_model.py

In place, and on the meta device, where it must allocate next to nothing. Each case in a process of
its own; the target has a range, bits and noise, so that weights are read as well as replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from footprint import measure
from torch import Tensor, nn

from analogize import analogize

WIDTH, LAYERS = 2048, 20


class Block(nn.Module):
    """A transformer's feed-forward block and its attention's projections, of 12 WIDTH^2 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., WIDTH) to the same."""
        x = x + self.mix(self.norm(x))
        y: Tensor = x + self.down(torch.relu(self.up(x)))
        return y


class Kept(nn.Sequential):
    """The same with a branch on values, which keeps its Python."""

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., WIDTH) to the same."""
        if x.sum() > torch.inf:
            return x
        y: Tensor = super().forward(x)
        return y


def build(kind: type[nn.Sequential], device: str) -> nn.Sequential:
    """About a billion parameters."""
    with torch.device(device):
        return kind(*(Block() for _ in range(LAYERS)))


def prepare(kind: type[nn.Sequential], device: str) -> Callable[[], object]:
    """A model and its rewriting; a small one first, for what loads lazily."""
    model = build(kind, device)
    analogize(nn.Sequential(nn.Linear(2, 2)), "pcm_8bit")
    return partial(analogize, model, "pcm_8bit", inplace=True)


def main() -> None:
    """Measure and print."""
    # In this process only: the measured ones import nothing that they do not need.
    from interleaved import machine

    count = sum(p.numel() for p in build(nn.Sequential, "meta").parameters())
    size = count * 4 / 2**20
    print(f"{count / 1e9:.2f} billion parameters, {size:.0f} MiB\n")
    print(f"{'case':36}{'seconds':>10}{'added MiB':>12}{'peak / size':>13}")
    for kind, name in ((nn.Sequential, "one graph"), (Kept, "kept Python")):
        for device in ("cpu", "meta"):
            found = measure(partial(prepare, kind, device))
            ratio = f"{1 + found.mebibytes / size:13.3f}" if device == "cpu" else ""
            print(f"{name + ', ' + device:36}{found.seconds:10.1f}{found.mebibytes:12.0f}{ratio}")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
