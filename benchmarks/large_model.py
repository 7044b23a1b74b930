"""Large models: seconds and memory of rewriting one, and of programming and evaluating chips.

    python benchmarks/large_model.py [rewriting | chips]

A billion parameters are rewritten in place, and on the meta device, where it must allocate next to
nothing; the target has a range, bits and noise, so that weights are read as well as replaced. Chips
are of a smaller model, and of one that is one large layer. Each case in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial

import torch
from footprint import measure
from torch import Tensor, nn

from analogize import analogize, evaluate, program

WIDTH, LAYERS = 2048, 20
SMALL_WIDTH, SMALL_LAYERS = 1024, 4


class Block(nn.Module):
    """A transformer's feed-forward block and its attention's projections, of 12 width^2 weights."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(*(nn.Linear(width, width) for _ in range(4)))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., width) to the same."""
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


def prepare_chips(case: str, form: str, target: str, dtype: torch.dtype) -> Callable[[], object]:
    """A calibrated model and what is done with its chips; a small one first, as above."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for width, layers in ((64, 1), (SMALL_WIDTH, SMALL_LAYERS)):
        size = width if form == "many layers" else 4 * width
        model = nn.Sequential(*(Block(width) for _ in range(layers)), nn.Linear(width, 10))
        if form == "one layer":
            model = nn.Sequential(nn.Linear(size, 10 * width), nn.Linear(10 * width, 10))
        data = [(torch.randn(2, size, dtype=dtype), torch.zeros(2, dtype=torch.long))]
        analog = analogize(model.to(dtype).eval(), target, data, inplace=True)
        run = CHIPS[case](analog, data)
        if width != SMALL_WIDTH:
            run()
    return run


def _program(model: nn.Module, _: object) -> Callable[[], object]:
    return partial(program, model, 0)


def _program_later(model: nn.Module, _: object) -> Callable[[], object]:
    return partial(program, model, 0, drift_time="1 day")


def _evaluate(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    return partial(evaluate, model, data, instances=2, progress=False)


def _evaluate_from_files(
    model: nn.Module, data: list[tuple[Tensor, Tensor]]
) -> Callable[[], object]:
    return partial(
        evaluate, model, data, instances=2, progress=False, weights_on_disk=tempfile.gettempdir()
    )


CHIPS = {
    "program": _program,
    "program, a day later": _program_later,
    "evaluate": _evaluate,
    "evaluate, on disk": _evaluate_from_files,
}


def chips() -> None:
    """Print what chips add at their peak, as a share of the weights in their own dtype."""
    size = SMALL_LAYERS * 12 * SMALL_WIDTH**2, 40 * SMALL_WIDTH**2
    print(
        f"{size[0] / 1e6:.0f} million weights in {SMALL_LAYERS * 6} layers, or {size[1] / 1e6:.0f}"
    )
    print("'on disk': without pages of files, which the system can let go")
    print(f"{'case':22}{'target':15}{'dtype':16}{'seconds':>17}{'added / weights':>20}")
    for case in CHIPS:
        for target in ("pcm_8bit", "pcm_joshi2020"):
            if "later" in case and target == "pcm_8bit":
                continue
            for dtype in (torch.float32, torch.bfloat16):
                found = [
                    measure(partial(prepare_chips, case, form, target, dtype))
                    for form in ("many layers", "one layer")
                ]
                shares = [
                    (f.anonymous if "disk" in case else f.mebibytes) * 2**20 / (n * dtype.itemsize)
                    for f, n in zip(found, size, strict=True)
                ]
                seconds = "".join(f"{f.seconds:8.1f}" for f in found)
                added = "".join(f"{share:9.3f}" for share in shares)
                print(f"{case:22}{target:15}{dtype!s:16}{seconds} {added}", flush=True)


def rewriting() -> None:
    """Print what rewriting a billion parameters takes."""
    count = sum(p.numel() for p in build(nn.Sequential, "meta").parameters())
    size = count * 4 / 2**20
    print(f"{count / 1e9:.2f} billion parameters, {size:.0f} MiB\n")
    print(f"{'case':36}{'seconds':>10}{'added MiB':>12}{'peak / size':>13}")
    for kind, name in ((nn.Sequential, "one graph"), (Kept, "kept Python")):
        for device in ("cpu", "meta"):
            found = measure(partial(prepare, kind, device))
            ratio = f"{1 + found.mebibytes / size:13.3f}" if device == "cpu" else ""
            print(f"{name + ', ' + device:36}{found.seconds:10.1f}{found.mebibytes:12.0f}{ratio}")


def main() -> None:
    """Measure and print."""
    # In this process only: the measured ones import nothing that they do not need.
    from interleaved import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("rewriting", "chips"))
    part = parser.parse_args().part
    if part != "chips":
        rewriting()
    if part != "rewriting":
        chips()
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
