"""Peak memory of a piece of work, in a process of its own.

Each case runs in a fresh process, because a peak cannot be taken back everywhere; what the process
held before the work (interpreter, libraries, model, data) is subtracted. Linux takes it back, so
that there the work cannot hide below what preparing it needed for a while.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """Seconds the work took and MiB it added to the process's peak.

    Attributes:
        seconds: the work's.
        mebibytes: all that was in memory, pages of files included.
        anonymous: without pages of files, which the operating system can let go; on Linux, looked
            at every millisecond, elsewhere 0.
    """

    seconds: float
    mebibytes: float
    anonymous: float


def measure(prepare: Callable[[], Callable[[], object]]) -> Footprint:
    """Run ``prepare()()`` in a fresh process; only the second call is measured."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(prepare, there))
    process.start()
    there.close()  # so that a process that fails ends the waiting
    result: Footprint = here.recv()
    process.join()
    return result


def _work(prepare: Callable[[], Callable[[], object]], pipe: Connection) -> None:
    run = prepare()
    _forget_peak()
    before, start = _peak(), time.perf_counter()
    watch = _Watch()
    watch.start()
    kept = run()
    seconds = time.perf_counter() - start
    pipe.send(Footprint(seconds, _peak() - before, watch.stop()))
    del kept


class _Watch(threading.Thread):
    """The largest growth of anonymous memory since the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._before = self._largest = _status("RssAnon")
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.001):
            self._largest = max(self._largest, _status("RssAnon"))

    def stop(self) -> float:
        """End looking; returns MiB."""
        self._over.set()
        self.join()
        return max(self._largest, _status("RssAnon")) - self._before


def _forget_peak() -> None:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    if sys.platform == "linux":
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(key: str) -> float:
    """A line of what Linux tells of this process, in MiB; 0 elsewhere."""
    if sys.platform != "linux":
        return 0.0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
