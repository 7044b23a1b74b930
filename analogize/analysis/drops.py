"""Drops of accuracy with some regions digital, chip by chip and sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.chip import noise_mode
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.seeds import chip_seed
from analogize.evaluation.deployment import Deployment
from analogize.evaluation.estimate import Estimate, error_of_mean
from analogize.evaluation.inference import run_chip, undisturbed
from analogize.evaluation.metrics import Accuracy
from analogize.evaluation.ranks import Ranks
from analogize.model.sharding import has_shards


class Hits(Accuracy):
    """Top-1 accuracy that keeps which samples were right; where a sample has many, their share."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Tensor] = []

    def reset(self, device: torch.device) -> None:
        """Forget every batch."""
        super().reset(device)
        self._rows = []

    def update(self, outputs: Any, targets: Any, count: int) -> None:
        """Count the batch's correct predictions, and keep them."""
        super().update(outputs, targets, count)
        right = (outputs.argmax(1) == targets).reshape(len(outputs), -1)
        self._rows.append(right.double().mean(1).cpu())

    def rows(self) -> Tensor:
        """Share of correct predictions in every sample, shape (samples,)."""
        self.value()  # raises where outputs or targets mean nothing
        return torch.cat(self._rows)


class Drops:
    """How much accuracy a model on chips loses against its digital self, on the same samples.

    Args:
        model: A rewritten classifier.
        data: Batches of (inputs, class indices), the same every time round.
        seed: What the chips' seeds derive from.
        watch: Called before every pass with the regions that are digital and the chip's number.
        deployment: What happens to every chip before it is measured.

    Attributes:
        baseline: Accuracy of the digital model.
        samples: How many samples the data hold.
        passes: How often this process has gone through the data.

    Raises:
        EvaluationError: Data or outputs do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        seed: int,
        watch: Callable[[Sequence[str], int], None] = lambda names, chip: None,
        deployment: Deployment | None = None,
    ) -> None:
        self._model, self._data, self._seed, self._watch = model, data, seed, watch
        self._score, self.passes = Hits(), 0
        self._deployment = Deployment() if deployment is None else deployment
        self._ranks = Ranks(together=has_shards(model))
        everything = [region.name for _, region, _ in located(model)]
        self._digital = self._hits(everything, 0, 0)[0]
        self.baseline, self.samples = float(self._digital.mean()), len(self._digital)

    def series(self, names: Sequence[str], run: int) -> Iterator[Tensor]:
        """Drops of chip 0, 1, ... of series ``run``, each of shape (samples,), without end.

        A chip of a series has the same seed whatever else is measured. Where nothing at all is
        drawn, one pass stands for every chip. With torch.distributed, as many chips are measured
        at a time as there are ranks, and every rank gets them all.

        Args:
            names: The regions that stay digital.
            run: The series.
        """
        for first in count(step=self._ranks.size):
            measure = partial(self._hits, names, run, first + self._ranks.rank)
            for hits, alike in self._ranks.gather(measure):
                yield self._digital - hits
                while alike:
                    yield self._digital - hits

    def _hits(self, names: Sequence[str], run: int, chip: int) -> tuple[Tensor, bool]:
        """Every sample's hits on one chip, and whether all chips must be like it."""
        self._watch(names, chip)
        self.passes += 1
        seed = chip_seed(chip_seed(self._seed, run), chip)
        noisy = [op for op, region, _ in located(self._model) if region.name not in names]
        # Nothing of a model that is wholly digital differs from chip to chip.
        deployment = self._deployment if noisy else Deployment()
        with (
            digital_regions(self._model, names),
            noise_mode(self._model, "programmed"),
            undisturbed(self._model),
            deployment.keeping(self._model),
        ):
            prepare = deployment.prepare(self._model, None)
            drew = run_chip(self._model, self._data, self._score, seed, prepare).drew
        return self._score.rows(), not drew and all(op.array.is_silent for op in noisy)


def estimated(drops: Tensor) -> Estimate:
    """The mean of ``drops`` (chips, samples) with its errors from chips and from samples."""
    return Estimate(
        value=float(drops.mean()),
        chips=error_of_mean(drops.mean(1)),
        samples=error_of_mean(drops.mean(0)),
    )


def foreseen(drops: Tensor, chips: int, samples: int | None) -> float:
    """The standard error that the mean drop will have on so many new chips and new samples.

    With ``samples`` None on the samples of ``drops`` (chips, samples) themselves.
    """
    variance = float(drops.mean(1).var()) / chips
    if samples is not None:
        # Sample means spread by the samples' own differences, and by what chips add to each.
        among, within = float(drops.mean(0).var()), float(drops.var(0).mean())
        own = max(among - within / len(drops), 0.0)
        variance += (own + within / chips) / samples
    return math.sqrt(variance)


@contextmanager
def digital_regions(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within the block the regions ``names`` compute their digital product."""

    def ignore(x: Tensor, y: Tensor) -> None:
        """The observer of a calibration makes an operator digital, and needs to see nothing."""

    chosen: list[AnalogOp] = [op for op, region, _ in located(model) if region.name in names]
    former = [op.observer for op in chosen]
    try:
        for op in chosen:
            op.observer = ignore
        yield
    finally:
        for op, before in zip(chosen, former, strict=True):
            op.observer = before
