"""Peak memory of training steps, as ratios to the clean model: ResNet-32 and ResNet-50.

python benchmarks/training_memory.py [--repeats 3]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torchvision
from footprint import measure
from interleaved import machine, steady_process
from torch.nn import functional as F

from analogize import analogize
from analogize.models import cifar_resnet32

MODELS = {
    "ResNet-32, batch 128": (cifar_resnet32, (128, 3, 32, 32)),
    "ResNet-50, batch 16": (torchvision.models.resnet50, (16, 3, 128, 128)),
}
CASES = {"clean": None, "noise and clipping": "paper_resnet32", "8-bit DAC and ADC": "pcm_8bit"}


def prepare(name: str, case: str) -> Callable[[], object]:
    """Two training steps of a model; the first step of an optimizer allocates its state."""
    factory, shape = MODELS[name]
    torch.manual_seed(0)
    x, labels, model = torch.randn(shape), torch.randint(10, shape[:1]), factory()
    target = CASES[case]
    if target is not None:
        model = analogize(model, target, [x[:4]], inplace=True)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()

    return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    for name in MODELS:
        peaks: dict[str, list[float]] = {case: [] for case in CASES}
        for _ in range(repeats):
            for case in CASES:
                peaks[case].append(measure(partial(prepare, name, case)).mebibytes)
        clean = median(peaks["clean"])
        print(f"Peak training memory, {name}")
        for case, values in peaks.items():
            print(
                f"  {case:24}{median(values):8.0f} MiB ({min(values):.0f} to {max(values):.0f})"
                f"{median(values) / clean:8.2f}x"
            )
    print(machine())


if __name__ == "__main__":
    steady_process()
    main()
