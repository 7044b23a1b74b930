"""What the file of an interrupted evaluation is worth to the run that goes on from it."""

from __future__ import annotations

import os
from pathlib import Path

from analogize.crossbar.seeds import chip_seed
from analogize.errors import EvaluationError
from analogize.evaluation.evaluation import Evaluation, Level
from analogize.evaluation.fingerprint import differences


def resumed(empty: Evaluation, resume: str | os.PathLike[str] | None) -> Evaluation:
    """What the file already holds of this very run, or the empty result.

    Args:
        empty: The run before its first chip.
        resume: The file; None for none.

    Raises:
        EvaluationError: It cannot be read, holds another run, or was changed by hand.
    """
    if resume is None or not Path(resume).exists():
        return empty
    before = Evaluation.load(resume)
    found = differences(empty.fingerprint, before.fingerprint)
    places = [[(level.eta, level.drift_time) for level in e.levels] for e in (empty, before)]
    if not found and places[0] != places[1]:
        found.append("levels that are not those of its own fingerprint")
    shared = min(empty.instances, before.instances)
    if before.seeds[:shared] != empty.seeds[:shared]:
        found.append("chips drawn by another version of analogize")
    if found:
        raise EvaluationError(
            f"{os.fspath(resume)} holds another run: {'; '.join(found)}. Delete the file, or name "
            "another, to start over"
        )
    for level in before.levels:
        _require_tied(level, before.fingerprint.seed, resume)
    return _continued(empty, before)


def _require_tied(level: Level, seed: int, resume: str | os.PathLike[str]) -> None:
    """Refuse values that do not belong to the chips of this run, one by one from the first."""
    expected = tuple(chip_seed(seed, k) for k in range(len(level.values)))
    if level.seeds == expected:
        return
    at = "the target's own noise" if level.eta is None else f"eta = {level.eta:g}"
    if len(level.seeds) != len(expected):
        what = f"{len(level.values)} values for {len(level.seeds)} chips"
    else:
        first = next(
            k for k, (a, b) in enumerate(zip(level.seeds, expected, strict=True)) if a != b
        )
        what = f"the value of another chip in the place of chip {first}"
    raise EvaluationError(
        f"{os.fspath(resume)} holds {what}, at {at}: a value was removed or added after it was "
        "written. Delete the file, or name another, to start over"
    )


_KEPT = ("values", "deterministic", "bounds", "resolution", "hits")


def _continued(empty: Evaluation, before: Evaluation) -> Evaluation:
    # With a precision, how many are needed follows from the pilot, so all are kept to look.
    kept = tuple(
        new.model_copy(update={key: getattr(old, key) for key in _KEPT})
        for new, old in zip(empty.levels, before.levels, strict=True)
    )
    full = empty.model_copy(update={"levels": kept, "samples": before.samples})
    for index, level in enumerate(kept):
        count = full.needed(index)
        full = full.with_values(index, level.values[:count], hits=level.hits[:count])
    return full
