"""How an assignment is searched for and tested.

A candidate is accepted only on chips that no earlier step has seen, and on samples of their own
where there are some. The k-th candidate (k = 1, 2, ...) is tested at level (1 - confidence) / 2^k,
which add up to 1 - confidence: however many candidates fail, the chance to accept one that misses
the budget stays below it. Tests end early only where they fail.

The bound is Student's t: exact for chips that are normally distributed. With samples of their own,
the errors from chips and from samples are added (Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 1, 2007), with the degrees of freedom of the smaller number. Samples that all
drop alike show no spread, and say only that others are rare: see ``upper_bound``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from scipy import stats
from torch import Tensor

from analogize.analysis.drops import Drops, estimated, foreseen

# Below three chips a spread says next to nothing.
_FIRST_LOOK = 3
_SURE = 0.99


@dataclass(frozen=True)
class Trial:
    """What a candidate showed on fresh chips.

    Attributes:
        names: The regions that were digital.
        number: Which test it was, from 1.
        drops: Drops of accuracy, (chips, samples); fewer chips where it failed early.
        bound: Upper confidence bound of the mean drop.
    """

    names: tuple[str, ...]
    number: int
    drops: Tensor
    bound: float


@dataclass(frozen=True)
class Search:
    """Looks for the least work that meets a budget.

    Attributes:
        seen: Drops on the samples of the search.
        unseen: Drops on other samples to test on; None to test on those of the search.
        max_drop: The budget.
        confidence: How sure it must be met.
        instances: Chips of a test.
        screening: Most chips that a candidate is tried on before.
        regions: How many there are; a candidate of all of them drops nothing.
    """

    seen: Drops
    unseen: Drops | None
    max_drop: float
    confidence: float
    instances: int
    screening: int
    regions: int

    @property
    def tested_on(self) -> Drops:
        """Where candidates are tested."""
        return self.seen if self.unseen is None else self.unseen

    def first_that_holds(self, candidates: Iterable[tuple[str, ...]]) -> Trial:
        """Test in turn; the last candidate must be the digital model, which drops nothing."""
        for number, names in enumerate(candidates, 1):
            chips = islice(self.tested_on.series(names, number), self.instances)
            drops = settled(chips, self.max_drop, early_success=False)
            level = (1 - self.confidence) / 2**number
            bound = upper_bound(drops, level, samples=self.unseen is not None)
            if len(names) == self.regions:
                bound = 0.0  # the digital model itself, not a sample of anything
            if bound <= self.max_drop and len(drops) == self.instances:
                break
        return Trial(names, number, drops, bound)

    def exhaustively(self, macs: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
        """Every subset that may meet the budget, the least work first."""
        for names in subsets(macs):
            if float(self._screened(names).mean()) <= self.max_drop:
                yield names

    def greedily(self, macs: Mapping[str, int], order: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """A small set that promises to suffice, then ever larger ones, to the whole.

        Args:
            macs: Every region's work.
            order: The regions, the most worthwhile to keep digital first.
        """
        low, high = 0, len(order)  # the whole drops nothing
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._promises(order[:middle]) else (middle + 1, high)
        chosen = list(order[:high])
        for name in sorted(chosen, key=lambda name: -macs[name]):
            fewer = [n for n in chosen if n != name]
            if self._promises(fewer):
                chosen = fewer
        yield tuple(name for name in macs if name in chosen)
        for name in order:
            if name not in chosen:
                chosen.append(name)
                yield tuple(n for n in macs if n in chosen)

    def _promises(self, names: Sequence[str]) -> bool:
        """Whether the first test would probably be passed: the drop leaves room for its margin."""
        drops = self._screened(names)
        samples = None if self.unseen is None else self.unseen.samples
        quantile = _quantile((1 - self.confidence) / 2, self.instances, samples)
        margin = quantile * foreseen(drops, self.instances, samples)
        return float(drops.mean()) + math.hypot(estimated(drops).chips, margin) <= self.max_drop

    def _screened(self, names: Sequence[str]) -> Tensor:
        return settled(islice(self.seen.series(names, 0), self.screening), self.max_drop)


def settled(chips: Iterator[Tensor], budget: float, *, early_success: bool = True) -> Tensor:
    """Drops of ``chips``, stacked; no more than settle on which side of the budget they are.

    Without ``early_success`` only a failure ends early: what is accepted has been on every chip.
    """
    found: list[Tensor] = []
    for chip in chips:
        found.append(chip)
        if len(found) < _FIRST_LOOK:
            continue
        now = estimated(torch.stack(found))
        margin = float(stats.t.ppf(_SURE, len(found) - 1)) * now.chips
        if now.value - margin > budget or (early_success and now.value + margin <= budget):
            break
    return torch.stack(found)


def subsets(macs: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Every subset, the least work first; the whole, which drops nothing, comes last."""
    every = [c for size in range(len(macs) + 1) for c in combinations(macs, size)]
    return sorted(every, key=lambda names: (sum(macs[n] for n in names), len(names)))


def upper_bound(drops: Tensor, level: float, *, samples: bool = False) -> float:
    """One-sided upper confidence bound of the mean drop, wrong with probability ``level``.

    Over chips on the samples of ``drops`` (chips, samples), or over samples like them as well.
    Where these all drop alike, it is by the largest share of others, whose drop is at most 1, that
    could have been missed by chance (Clopper and Pearson, Biometrika 26, 1934, with no event).
    """
    found = estimated(drops)
    each = drops.mean(0)
    if samples and bool((each == each[0]).all()):
        missed: float = 1 - level ** (1 / drops.shape[1])
        return found.value + missed * (1 - found.value)
    error = found.error if samples else found.chips
    return found.value + _quantile(level, len(drops), drops.shape[1] if samples else None) * error


def _quantile(level: float, chips: int, samples: int | None) -> float:
    smaller = chips if samples is None else min(chips, samples)
    return float(stats.t.ppf(1 - level, smaller - 1))
