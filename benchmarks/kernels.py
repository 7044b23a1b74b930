"""How many kernels one pass runs: training steps and programmed chips of the CIFAR ResNet-32.

    python benchmarks/kernels.py [--by-operator]

Every operator that torch dispatches counts as one kernel, views and allocations do not; neither
time nor an accelerator is needed. ``syncs`` counts what would make a host wait for an accelerator:
reading a value out of a tensor. A training step is forward pass, loss and backward pass; the
optimizer's own kernels are the clean model's. Where Triton is installed, everything is counted a
second time as on an accelerator with Triton, where a converter is one kernel; Triton's interpreter
runs it on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from analogize import analogize, clip_weights, program
from analogize.models import cifar_resnet32
from analogize.targets import load_target

TARGETS = {
    "clean": None,
    "noise and clipping": "paper_resnet32",
    # Converters alone, and with tiles that convert their own sums.
    "8-bit DAC and ADC": load_target("pcm_8bit").model_copy(update={"array": None}),
    "pcm_8bit": "pcm_8bit",
    "pcm_joshi2020": "pcm_joshi2020",
}
# What the project aims at, as multiples of the clean model's count.
LIMITS = {
    "training step": {"noise and clipping": 1.35, "8-bit DAC and ADC": 2.5, "pcm_joshi2020": 3.0},
    "programmed chip": {"noise and clipping": 2.0, "8-bit DAC and ADC": 2.0, "pcm_joshi2020": 2.0},
}
_ALLOCATES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_PROFILES = ("_record_function_enter_new", "_record_function_exit")
_WAITS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero")


class Kernels(TorchDispatchMode):
    """Counts what runs within the block.

    Attributes:
        counts: how often each operator ran that is neither a view nor an allocation.
        syncs: how often each operator ran that hands a value to the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count ``func`` and run it."""
        name = func.overloadpacket.__name__
        if name in _WAITS:
            self.syncs[name] += 1
        elif not _is_view(func) and name not in _ALLOCATES + _PROFILES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All kernels."""
        return sum(self.counts.values())


def _is_view(func: Any) -> bool:
    """Whether the result shares memory with an argument that is not written to."""
    returned = [r.alias_info for r in func._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)


def count(run: Callable[[], object]) -> Kernels:
    """The kernels of ``run()``; it runs once before, for what is made at first use."""
    run()
    with Kernels() as kernels:
        run()
    return kernels


def training_step(model: nn.Module, x: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward pass, loss, backward pass."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels).backward()

    return run


def forward_pass(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """One inference."""

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def measure(x: Tensor, labels: Tensor) -> dict[str, dict[str, Kernels]]:
    """The kernels of every case: what runs -> target -> kernels."""
    clean = cifar_resnet32()
    found: dict[str, dict[str, Kernels]] = {
        "training step": {},
        "programmed chip": {},
        "clip_weights": {},
    }
    for name, target in TARGETS.items():
        model = copy.deepcopy(clean) if target is None else analogize(clean, target, [x])
        found["training step"][name] = count(training_step(model.train(), x, labels))
        if target is not None:
            found["clip_weights"][name] = count(lambda model=model: clip_weights(model))
            program(model.eval(), seed=0)
        found["programmed chip"][name] = count(forward_pass(model.eval(), x))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--by-operator", action="store_true", help="list every operator's count")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, labels = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    for what, cases in measure(x, labels).items():
        print(f"\n{what:20}{'kernels':>9}{'ratio':>8}{'aim':>7}{'syncs':>7}")
        for name, kernels in cases.items():
            clean = cases.get("clean")
            ratio = "" if clean is None else f"{kernels.total / clean.total:.2f}"
            aim = LIMITS.get(what, {}).get(name, "")
            print(f"{name:20}{kernels.total:9}{ratio:>8}{aim:>7}{sum(kernels.syncs.values()):7}")
            if options.by_operator:
                for operator, times in (kernels.counts + kernels.syncs).most_common():
                    print(f"    {operator:32}{times:5}")
    if os.environ.get("TRITON_INTERPRET") != "1" and importlib.util.find_spec("triton"):
        print("\nWith converters as fused kernels, as on an accelerator with Triton", flush=True)
        fused = os.environ | {"TRITON_INTERPRET": "1"}
        subprocess.run([sys.executable, *sys.argv], env=fused, check=True)


if __name__ == "__main__":
    main()
