"""Recurrent layers: a programmed chip and calibration, against torch's own fused layer.

python benchmarks/recurrent.py [--rounds 20] [--steps 50]

Two LSTM layers of 128 on sequences of 64 values, batch 16. The digital model runs torch's LSTM as
one operator; an array sees one product a step, between converters, so that the steps are Python.
Calibration is of eight batches, against eight digital passes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import compare, print_table, steady_process
from programmed_chip import inference
from torch import Tensor, nn

from analogize import analogize, calibrate, program

BATCHES = 8


class Layers(nn.Module):
    """Two recurrent layers and a head on the last state."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.cells = kind(64, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, T, 64); returns (B, 10)."""
        y: Tensor = self.head(self.cells(x)[0][:, -1])
        return y


def several(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """As many forward passes as calibration takes, as a callable."""
    one = inference(model, x)

    def run() -> None:
        for _ in range(BATCHES):
            one()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(16, options.steps, 64)
    clean = Layers().eval()
    models = {
        "noise and clipping": analogize(clean, "paper_resnet32", [x]),
        "8-bit DAC and ADC": analogize(clean, "pcm_8bit", [x]),
    }
    for model in models.values():
        program(model.eval(), seed=0)
    converted = analogize(clean, "pcm_8bit", [x])
    cases: dict[str, tuple[str, Callable[[], None]]] = {
        "digital": ("digital", inference(clean, x)),
        **{name: ("digital", inference(model, x)) for name, model in models.items()},
        "eight digital passes": ("eight digital passes", several(clean, x)),
        "calibration on eight batches": (
            "eight digital passes",
            lambda: calibrate(converted, [x] * BATCHES, progress=False),
        ),
    }
    rows = compare(cases, options.rounds, warmup=2)
    print_table(f"Two LSTM layers of 128, batch 16, {options.steps} steps", rows)


if __name__ == "__main__":
    steady_process()
    main()
