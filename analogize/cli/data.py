"""The data of a command: a known data set, or the loader of a file of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import typer

from analogize.cli.importing import imported
from analogize.demo.data import ImageTensors, load_dataset
from analogize.errors import EvaluationError
from analogize.model.calls import split_labels


@dataclass(frozen=True)
class Data:
    """What a command measures on.

    Attributes:
        test: batches of (inputs, targets), the same every time round.
        shuffled: the same in another order, from a seed, where the order can be chosen.
        example: inputs of a call, to rewrite by.
        calibration: makes the batches that fix the converters' ranges.
        samples: number of samples, where it is known.
    """

    test: Iterable[Any]
    shuffled: Callable[[int], Iterable[Any]]
    example: Any
    calibration: Callable[[], Iterable[Any]]
    samples: int | None = None


def load_data(
    dataset: str | None,
    loader: str | None,
    data: Path | None = None,
    batch_size: int = 256,
    calibration_batches: int = 8,
    limit: int | None = None,
    **options: Any,
) -> Data:
    """The data that ``--dataset`` or ``--loader`` names.

    Raises:
        EvaluationError: neither or both are given, or they cannot be loaded.
    """
    if (dataset is None) == (loader is None):
        raise EvaluationError(
            "give either --dataset NAME, a data set that analogize knows, or --loader "
            "FILE.py:NAME, a function of yours that returns batches"
        )
    if calibration_batches < 1:
        raise EvaluationError(
            f"--calibration-batches is {calibration_batches}; this target's converters need at "
            "least 1"
        )
    if dataset is not None:
        load = partial(load_dataset, dataset, data, **options)
        return _known(load, batch_size, calibration_batches, limit)
    assert loader is not None, "one of the two is given"
    if limit is not None:
        raise EvaluationError("--limit counts images of --dataset: let the loader return fewer")
    return _own(loader, calibration_batches)


def _known(
    load: Callable[..., ImageTensors], size: int, calibration: int, limit: int | None
) -> Data:
    test = load(train=False, limit=limit)
    return Data(
        test=test.batches(size),
        shuffled=lambda seed: test.batches(size, generator=torch.Generator().manual_seed(seed)),
        example=next(iter(test.take(2).batches(2)))[0],
        calibration=lambda: load(train=True, limit=calibration * size).batches(size),
        samples=len(test),
    )


def _own(loader: str, calibration: int) -> Data:
    make = imported(loader, "loader")
    knows_splits = callable(make) and "train" in inspect.signature(make).parameters
    test = _batches(loader, make, {"train": False} if knows_splits else {})
    if not knows_splits:
        typer.echo(
            f"{loader} takes no argument 'train': the converters are calibrated on the data that "
            "are measured",
            err=True,
        )

    def training() -> Iterable[Any]:
        found = _batches(loader, make, {"train": True}) if knows_splits else test
        return list(islice(found, calibration))

    first = next(iter(test), None)
    if first is None:
        raise EvaluationError(f"the loader '{loader}' holds no batch")
    inputs = split_labels(first)[0]
    if isinstance(inputs, list | tuple) and inputs:
        inputs = tuple(inputs[0]) if isinstance(inputs[0], list) else inputs[0]
    return Data(test, lambda _: test, inputs, training)


def _batches(path: str, make: Any, keywords: dict[str, Any]) -> Iterable[Any]:
    try:
        found = make(**keywords) if callable(make) else make
    except Exception as cause:
        raise EvaluationError(f"{path} failed: {type(cause).__name__}: {cause}") from cause
    if not hasattr(found, "__iter__"):
        raise EvaluationError(
            f"{path} gave a {type(found).__name__}; return a DataLoader or a list of batches"
        )
    # What can be gone through once only is kept: every chip sees the same data.
    return list(found) if hasattr(found, "__next__") else found
