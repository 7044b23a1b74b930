"""Evaluating a programmed chip: CIFAR ResNet-32 at batch 128 under no_grad.

python benchmarks/programmed_chip.py [--rounds 50] [--wall]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import compare, print_table, steady_process
from torch import Tensor, nn

from analogize import analogize, program
from analogize.models import cifar_resnet32
from analogize.targets import load_target

LIMITS = {"noise and clipping": 1.02, "8-bit DAC and ADC": 1.30}


def inference(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """One forward pass as a callable."""

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--wall", action="store_true", help="the clock's time, as a user meets it")
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(options.batch, 3, 32, 32)
    clean = cifar_resnet32().eval()
    # Converters alone: tiles that convert their own sums are tiling.py's.
    one_array = load_target("pcm_8bit").model_copy(update={"array": None})
    models = {
        "clean": clean,
        "noise and clipping": analogize(clean, "paper_resnet32"),
        "8-bit DAC and ADC": analogize(clean, one_array, [x]),
        "pcm_joshi2020": analogize(clean, "pcm_joshi2020", [x]),
    }
    for model in list(models.values())[1:]:
        program(model, seed=0)
    cases = {name: ("clean", inference(model, x)) for name, model in models.items()}
    rows = compare(cases, options.rounds, warmup=5, limits=LIMITS, wall=options.wall)
    kind = "time on the clock" if options.wall else "CPU time"
    print_table(f"Evaluating a programmed chip, ResNet-32, batch {options.batch}, {kind}", rows)


if __name__ == "__main__":
    steady_process()
    main()
