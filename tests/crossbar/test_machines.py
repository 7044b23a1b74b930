"""A chip on other processors: torch has kernels for several, chosen here by its own variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys, torch
from torch import nn
from analogize import analogize, program
from analogize.crossbar.ops import operators

torch.set_num_threads(1)
chips = []
for target in ("pcm_8bit", "pcm_joshi2020", "reram_wan2022"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 10))
    analog = analogize(model, target, [torch.linspace(-1, 1, 96).view(2, 48)])
    program(analog, 3)
    chips += [op.array.chip for op in operators(analog)]
torch.save(chips, sys.argv[1])
"""


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="the processor has none of the capabilities to compare",
)
def test_a_chip_is_the_same_with_avx2_or_newer_and_nearly_so_without(tmp_path: Path) -> None:
    # Asked for what the processor lacks, torch would run its instructions all the same.
    newest = torch.backends.cpu.get_cpu_capability().lower()
    started = {}
    for capability in dict.fromkeys((newest, "avx2", "default")):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        command = [sys.executable, "-c", SCRIPT, tmp_path / capability]
        started[capability] = subprocess.Popen(command, env=environment)
    assert {process.wait() for process in started.values()} == {0}
    kinds = (newest, "avx2", "default")
    chips = [torch.load(tmp_path / capability) for capability in kinds]
    for newer, avx2, oldest in zip(*chips, strict=True):
        assert avx2.equal(newer)
        # A draw of up to 5.6 sigma that is off by some of its 2^-23, and sigma below the range.
        assert float((oldest - avx2).abs().max() / (avx2.max() - avx2.min())) < 1e-6
