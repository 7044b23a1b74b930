"""Peak memory of a piece of work, in a process of its own.

Each case runs in a fresh process, because a peak cannot be taken back; what the process held before
the work (interpreter, libraries, model, data) is subtracted.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Footprint:
    """Seconds the work took and MiB it added to the process's peak."""

    seconds: float
    mebibytes: float


def measure(prepare: Callable[[], Callable[[], object]]) -> Footprint:
    """Run ``prepare()()`` in a fresh process; only the second call is measured."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(prepare, there))
    process.start()
    result: Footprint = here.recv()
    process.join()
    return result


def _work(prepare: Callable[[], Callable[[], object]], pipe: Connection) -> None:
    run = prepare()
    before, start = _peak(), time.perf_counter()
    kept = run()
    pipe.send(Footprint(time.perf_counter() - start, _peak() - before))
    del kept


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
