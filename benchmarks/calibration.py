"""What calibration costs, in passes of the digital model over the same data.

    python benchmarks/calibration.py [--rounds 5] [--models mlp encoder resnet32] [--wall]

Each case is ``calibrate`` on eight batches, for 8-bit converters whose ADC has one rule and one
range an array (tensor) or a column (channel); the DAC has the same rule, one range an array.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import compare, print_table, steady_process
from torch import Tensor, nn

from analogize import AnalogModule, analogize, calibrate
from analogize.models import cifar_resnet32
from analogize.targets import Target, load_target

RULES = ("percentile", "minmax", "std", "mse")
AIM = 4.0


def mlp() -> tuple[nn.Module, list[Tensor]]:
    """Three layers of 512 on batches of 1,024 vectors."""
    layers = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), [torch.randn(1024, 512) for _ in range(8)]


def encoder() -> tuple[nn.Module, list[Tensor]]:
    """Two layers of a transformer's encoder, 384 wide, on batches of 16 texts of 64 tokens."""
    layer = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True)
    whole = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return whole, [torch.randn(16, 64, 384) for _ in range(8)]


def resnet32() -> tuple[nn.Module, list[Tensor]]:
    """CIFAR ResNet-32 on batches of 64 images."""
    return cifar_resnet32(), [torch.randn(64, 3, 32, 32) for _ in range(8)]


MODELS = {"mlp": mlp, "encoder": encoder, "resnet32": resnet32}


def target(rule: str, granularity: str) -> Target:
    """``pcm_8bit`` without tiles, its converters' ranges by ``rule``."""
    values = load_target("pcm_8bit").model_dump(by_alias=True)
    extra = {"percentile": {"low": 0.1, "high": 99.9}, "std": {"multiple": 3.0}}.get(rule, {})
    for name in ("dac", "adc"):
        values[name]["range"] = {"kind": rule, **extra}
    values["adc"]["granularity"] = granularity
    values["array"]["tiling"] = False
    return Target.model_validate(values)


def digital(model: nn.Module, data: list[Tensor]) -> Callable[[], None]:
    """All batches through the digital model."""

    def run() -> None:
        with torch.no_grad():
            for x in data:
                model(x)

    return run


def calibrating(model: AnalogModule, data: list[Tensor]) -> Callable[[], None]:
    """All batches through calibration."""
    return lambda: calibrate(model, data, progress=False)


def main() -> None:
    """Measure and print, model by model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--wall", action="store_true", help="time on the clock")
    options = parser.parse_args()
    for name in options.models:
        torch.manual_seed(0)
        model, data = MODELS[name]()
        model.eval()
        cases: dict[str, tuple[str, Callable[[], object]]] = {
            "digital": ("digital", digital(model, data))
        }
        for granularity in ("tensor", "channel"):
            for rule in RULES:
                rewritten = analogize(model, target(rule, granularity), data[:1])
                cases[f"{rule}, {granularity}"] = ("digital", calibrating(rewritten, data))
        aims = dict.fromkeys(list(cases)[1:], AIM)
        rows = compare(cases, options.rounds, warmup=1, limits=aims, wall=options.wall)
        print_table(f"Calibration of {name}, passes of the digital model", rows)


if __name__ == "__main__":
    steady_process()
    main()
