"""Damaged and hostile files for every reader: each ends in one of analogize's own errors, in time.

    python benchmarks/fuzz.py --seconds 60
    python benchmarks/fuzz.py --seconds 20 --seed 7 onnx target

Good files are mutated (fuzz_mutate.py) and read in a child process with bounded memory; a file that
takes longer than ``--patience`` is stopped. Printed are files tried, how each reading ended, the
slowest and the largest. Exit status 1 where anything but analogize's own errors was met; ``--keep``
saves the files that met it.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from fuzz_mutate import mutate
from fuzz_readers import READERS, Reader

from analogize.errors import AnalogizeError

_HEADROOM = 3 * 2**30  # bytes of address space that a child may map beyond what it starts with


class Tally:
    """What one reader met."""

    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.foreign: dict[str, bytes] = {}
        self.slowest = 0.0
        self.grown = 0

    @property
    def files(self) -> int:
        """Files tried."""
        return sum(self.outcomes.values())

    def add(self, outcome: str, seconds: float, grown: int, content: bytes) -> None:
        """Count one file; keep it where it met what it should not have."""
        own = outcome == "read" or (outcome.split(":")[0].endswith("Error") and ":" not in outcome)
        self.outcomes[outcome] += 1
        if not own:
            self.foreign.setdefault(outcome, content)
        self.slowest, self.grown = max(self.slowest, seconds), max(self.grown, grown)


def main() -> None:
    """Fuzz the readers asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=30, help="seconds for one file")
    parser.add_argument("--keep", type=Path, help="folder for files that met foreign errors")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tallies = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.readers or READERS:
            place = Path(folder) / name
            place.mkdir()
            reader = READERS[name](place)
            tallies[name] = fuzz(reader, place, asked.seconds, asked.seed, asked.patience)
            report(name, tallies[name])
    if asked.keep is not None:
        keep(tallies, asked.keep)
    sys.exit(any(tally.foreign for tally in tallies.values()))


def fuzz(reader: Reader, place: Path, seconds: float, seed: int, patience: float) -> Tally:
    """Read mutated files until the time is up; a child that hangs or dies is replaced."""
    tally, number = Tally(), 0
    end = time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    while time.monotonic() < end:
        ours, theirs = context.Pipe()
        child = context.Process(target=work, args=(reader, place, seed, number, theirs))
        child.start()
        theirs.close()
        while time.monotonic() < end:
            if not ours.poll(patience):
                outcome = f"hang: no end within {patience:g} s"
            else:
                try:
                    outcome, taken, grown = ours.recv()
                except EOFError:
                    child.join()
                    outcome = f"crash: exit code {child.exitcode}"
            number += 1
            if ": " in outcome and outcome.split(":")[0] in ("hang", "crash"):
                tally.add(outcome, patience, 0, content(reader, seed, number - 1))
                break
            # Mutating again is cheaper than sending every file through the pipe.
            tally.add(outcome, taken, grown, b"")
            if not tally.foreign.get(outcome, b"x"):
                tally.foreign[outcome] = content(reader, seed, number - 1)
        child.kill()
        child.join()
    return tally


def work(reader: Reader, place: Path, seed: int, number: int, out: Connection) -> None:
    """Read one mutated file after the other from ``number`` on, and tell how each ended."""
    warnings.simplefilter("ignore")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _HEADROOM, mapped + _HEADROOM))
    file = place / f"mutated{reader.suffix}"
    while True:
        file.write_bytes(content(reader, seed, number))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        outcome = attempt(reader, file)
        taken = time.monotonic() - begun
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        out.send((outcome, taken, grown))
        number += 1


def content(reader: Reader, seed: int, number: int) -> bytes:
    """The mutated file of that number; the same one every time."""
    return mutate(reader, random.Random(f"{seed} {number}"))


def attempt(reader: Reader, file: Path) -> str:
    """Read one file: "read", the name of analogize's error, or a foreign one and its place."""
    try:
        reader.read(file)
    except AnalogizeError as error:
        return type(error).__name__
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "analogize" in f.filename), frames[-1])
        line = f"{Path(place.filename).name}:{place.lineno}"
        return f"foreign: {type(error).__name__} at {line}"
    return "read"


def report(name: str, tally: Tally) -> None:
    """Print a reader's row, and below it what was foreign."""
    own = {k: n for k, n in tally.outcomes.items() if k not in tally.foreign}
    ends = ", ".join(f"{k} {n}" for k, n in sorted(own.items()))
    print(
        f"| {name} | {tally.files} | {ends} | {sum(tally.outcomes[k] for k in tally.foreign)} | "
        f"{tally.slowest:.1f} s | {tally.grown >> 10} MiB |",
        flush=True,
    )
    for outcome in tally.foreign:
        print(f"    {tally.outcomes[outcome]} x {outcome}", flush=True)


def keep(tallies: dict[str, Tally], folder: Path) -> None:
    """Save one file for each foreign end."""
    for name, tally in tallies.items():
        for index, found in enumerate(tally.foreign.values()):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}-{index}").write_bytes(found)


if __name__ == "__main__":
    main()
