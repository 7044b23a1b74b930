"""How often each interval covers what it is an interval of: simulated, chip by chip.

python benchmarks/intervals.py [--trials 400] [--out benchmarks/intervals.md]

Three kinds of chips, whose truth is known: an accuracy that is normal over chips; one near its
ceiling, of which few chips lose much; and chips of which one in twenty fails. Every interval is to
cover at least 95 times in a hundred. Student's is `Level.interval`, without its floor; the bounded
one `Level.bounded_interval`; Stein's what `evaluate(precision=...)` ends with, from that pilot and
for a quarter of the true deviation; yield's is Clopper and Pearson's for 90 %; and the two-way
bootstrap is of chips and images, 355 that are as hard for one chip as for another.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from analogize.evaluation.hits import two_way_interval
from analogize.evaluation.intervals import (
    binomial_interval,
    bounded_interval,
    stein_count,
    stein_interval,
    t_interval,
)

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
Ends = tuple[float, float]
SAMPLES, COUNTS, LARGEST = 355, (3, 5, 10, 20, 50), 2000


def normal(random: np.random.Generator, count: int) -> Floats:
    """90 % on average, with a deviation of one point."""
    return random.normal(0.9, 0.01, count)


def near_ceiling(random: np.random.Generator, count: int) -> Floats:
    """Up to 99.2 % of 355 images, and few chips lose much."""
    values = np.minimum(0.992, 1 - random.gamma(0.6, 0.01, count))
    rounded: Floats = np.round(SAMPLES * values) / SAMPLES
    return rounded


def one_in_twenty_fails(random: np.random.Generator, count: int) -> Floats:
    """95 % where a chip works, half that where it does not."""
    failed = random.random(count) < 0.05
    good, bad = random.normal(0.95, 0.003, count), random.normal(0.5, 0.05, count)
    values: Floats = np.where(failed, bad, good)
    return values


KINDS: dict[str, Draw] = {
    "normal": normal,
    "near its ceiling": near_ceiling,
    "one in twenty fails": one_in_twenty_fails,
}


def intervals(
    draw: Draw, random: np.random.Generator, count: int, spread: float
) -> Iterator[tuple[str, Ends]]:
    """Every interval of one run of ``count`` chips."""
    values = draw(random, count)
    student = t_interval(values.tolist())
    assert student is not None, "count is above 1"
    yield "Student", student
    yield "bounded", bounded_interval(values.tolist(), 0.0, 1.0)
    more = min(stein_count(values.tolist(), spread / 4), LARGEST) - count
    yield "Stein", stein_interval([*values, *draw(random, more)], count)
    yield "yield", binomial_interval(int((values >= 0.9).sum()), count)
    hits = random.random(SAMPLES) < values[:, None]
    yield "chips and images", two_way_interval(hits, draws=200, seed=0)


def coverage(draw: Draw, count: int, trials: int) -> dict[str, float]:
    """The share of ``trials`` runs in which each interval covers."""
    everything = draw(np.random.default_rng(1), 10**6)
    mean, passing = float(everything.mean()), float((everything >= 0.9).mean())
    random, hits = np.random.default_rng(2), dict[str, int]()
    for _ in range(trials):
        for name, (low, high) in intervals(draw, random, count, float(everything.std())):
            truth = passing if name == "yield" else mean
            hits[name] = hits.get(name, 0) + (low <= truth <= high)
    return {name: found / trials for name, found in hits.items()}


def main() -> None:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines: list[str] = []
    for kind, draw in KINDS.items():
        for count in COUNTS:
            found = coverage(draw, count, arguments.trials)
            if not lines:
                lines += ["| " + " | ".join(["chips", "number", *found]) + " |"]
                lines += ["|" + "---|" * (len(found) + 2)]
            cells = [kind, str(count), *(f"{share:.1%}" for share in found.values())]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
