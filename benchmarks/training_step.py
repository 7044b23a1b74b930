"""One training step of CIFAR ResNet-32 at batch 128: forward, loss, backward, SGD.

python benchmarks/training_step.py [--rounds 30] [--no-compile] [--wall]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from interleaved import compare, print_table, steady_process
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize
from analogize.models import cifar_resnet32
from analogize.targets import load_target

# What the project aims at; see README.md in this folder for what was measured.
LIMITS = {
    "noise and clipping": 1.05,
    "8-bit DAC and ADC": 1.45,
    "8-bit DAC and ADC, bfloat16": 1.00,
    "8-bit DAC and ADC, compiled": 1.25,
}


def step(model: nn.Module, x: Tensor, labels: Tensor, bfloat16: bool = False) -> Callable[[], None]:
    """One optimizer step as a callable."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--wall", action="store_true", help="the clock's time, as a user meets it")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, labels = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    clean = cifar_resnet32().train()
    # Converters alone: tiles that convert their own sums are tiling.py's.
    one_array = load_target("pcm_8bit").model_copy(update={"array": None})
    models = {
        "clean": clean,
        "noise and clipping": analogize(clean, "paper_resnet32"),
        "8-bit DAC and ADC": analogize(clean, one_array, [x]),
        "pcm_joshi2020": analogize(clean, "pcm_joshi2020", [x]),
    }
    cases = {}
    for name, model in models.items():
        cases[name] = ("clean", step(copy.deepcopy(model), x, labels))
        cases[f"{name}, bfloat16"] = ("clean", step(copy.deepcopy(model), x, labels, bfloat16=True))
        if not options.no_compile:
            compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
            cases[f"{name}, compiled"] = ("clean, compiled", step(compiled, x, labels))
    rows = compare(cases, options.rounds, limits=LIMITS, wall=options.wall)
    kind = "time on the clock" if options.wall else "CPU time"
    print_table(f"Training step, ResNet-32, batch {options.batch}, {kind}", rows)


if __name__ == "__main__":
    steady_process()
    main()
