"""Time several callables in turn within one process, as ratios to one of them.

Every round runs each case once, so that a machine whose speed drifts slows all of them; the ratio
is taken round by round, and its median and quartiles are reported. CPU time counts all threads;
with ``--wall`` it is the time on the clock, with a user's own allocator and threads.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """One case: median milliseconds, and its ratio to the baseline (quartiles)."""

    name: str
    baseline: str
    milliseconds: float
    low: float
    ratio: float
    high: float
    limit: float | None


def compare(
    cases: Mapping[str, tuple[str, Callable[[], object]]],
    rounds: int,
    warmup: int = 3,
    limits: Mapping[str, float] | None = None,
    wall: bool = False,
) -> list[Timing]:
    """Time ``cases``: name -> (name of its baseline, callable); CPU time, or the clock's."""
    clock = time.perf_counter if wall else time.process_time
    for _ in range(warmup):
        for _, run in cases.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (_, run) in cases.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    rows = []
    for name, (baseline, _) in cases.items():
        ratios = np.divide(seconds[name], seconds[baseline])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        median = float(np.median(seconds[name])) * 1e3
        limit = (limits or {}).get(name)
        rows.append(Timing(name, baseline, median, float(low), float(middle), float(high), limit))
    return rows


def steady_process() -> None:
    """Start this program again where neither the allocator nor waiting threads blur CPU time.

    glibc returns freed memory to the kernel at thresholds that it adapts as it goes, so that the
    same tensors cost twice the page faults in another order of frees: an eager model and its own
    torch.fx trace differ by up to 1.4x. Threads that
    wait would spin, and be counted as work. MALLOC_TRIM_THRESHOLD_ in the environment, whatever its
    value, leaves everything as it is, and so does ``--wall`` among the arguments.
    """
    taken = "--wall" in sys.argv or "MALLOC_TRIM_THRESHOLD_" in os.environ
    if sys.platform != "linux" or taken:
        return
    steady = {
        "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | steady)


def print_table(title: str, rows: list[Timing]) -> None:
    """Print the ratios and what they were measured on."""
    table = Table(title=title, title_justify="left")
    for name in ("case", "ms", "ratio to", "ratio", "quartiles", "aim"):
        table.add_column(name, justify="left" if name in ("case", "ratio to") else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.milliseconds:.1f}",
            row.baseline,
            f"{row.ratio:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            "" if row.limit is None else f"{row.limit:.2f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print(machine())


def machine() -> str:
    """Processor, threads and versions, in one line."""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, analogize {version('analogize')}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
