"""What a Monte Carlo evaluation found: values per chip, their statistics, JSON, table and plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError
from rich.table import Table

from analogize.crossbar.seeds import chip_seed
from analogize.devices.times import describe
from analogize.display.tables import Shown, html, text
from analogize.errors import EvaluationError
from analogize.evaluation.fingerprint import Fingerprint
from analogize.evaluation.intervals import spread_floor, stein_count
from analogize.evaluation.level import GivenChip, Level, Yield
from analogize.files.writing import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture

__all__ = ["SCHEMA", "Evaluation", "GivenChip", "Level", "Yield"]

SCHEMA: Final = 1
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Evaluation(Shown, BaseModel):
    """A metric over programmed chips at one or several noise levels; ``evaluate`` makes it.

    Attributes:
        metric: The metric's name.
        target: The target's name.
        noise: The kinds of weight noise, which say what ``eta`` means.
        instances: Chips asked for at each level; with ``precision`` those of the pilot.
        precision: Half-width asked of each level's 95 % interval; None where chips were counted.
        seeds: Their seeds, the same at every level: ``program(model, seeds[k])`` gives chip k.
        samples: Number of samples in the data; None before the first chip.
        levels: Values and statistics, in the order the levels were asked for.
        given: The metric on chips that were given as data.
        fingerprint: What the values depend on.
        versions: Versions of analogize and torch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    metric: str
    target: str
    noise: tuple[str, ...]
    instances: int = Field(ge=1)
    precision: PositiveFinite | None = None
    seeds: tuple[int, ...]
    samples: int | None = None
    levels: tuple[Level, ...]
    given: tuple[GivenChip, ...] = ()
    fingerprint: Fingerprint
    versions: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether every chip was measured; False in the file of an interrupted run."""
        return all(map(self.is_done, range(len(self.levels))))

    def is_done(self, index: int) -> bool:
        """Whether level ``index`` has all of its chips."""
        level = self.levels[index]
        return level.deterministic or len(level.values) >= self.needed(index)

    def needed(self, index: int) -> int:
        """How many chips level ``index`` takes; with ``precision`` known after the pilot."""
        values = self.levels[index].values
        if self.precision is None or len(values) < max(self.instances, 2):
            return self.instances
        floor = spread_floor(self.instances, self.levels[index].resolution)
        return stein_count(values[: self.instances], self.precision, floor=floor)

    def with_values(self, index: int, values: Sequence[float], **update: Any) -> Self:
        """The result with these values, and their chips' seeds, at level ``index``.

        Args:
            index: The level's number.
            values: One for each chip, from the first.
            update: Further fields of the level.
        """
        seeds = tuple(chip_seed(self.fingerprint.seed, k) for k in range(len(values)))
        changed = update | {"values": tuple(values), "seeds": seeds}
        levels = list(self.levels)
        levels[index] = levels[index].model_copy(update=changed)
        longest = (*self.seeds, *seeds[len(self.seeds) :])
        return self.model_copy(update={"levels": tuple(levels), "seeds": longest})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON; the file is replaced as a whole or not at all.

        Raises:
            EvaluationError: the file cannot be written.
        """
        try:
            text = self.model_dump_json(by_alias=True, indent=1)
        except PydanticSerializationError as cause:
            # What interrupts the statistics comes out of pydantic as an error of its own.
            if "KeyboardInterrupt" in str(cause):
                raise KeyboardInterrupt from cause
            raise
        with writing(path, "the evaluation", EvaluationError) as draft:
            draft.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote, or the file of an interrupted run.

        Raises:
            EvaluationError: the file cannot be read or is no evaluation of this schema.
        """
        try:
            found = cls.model_validate_json(Path(path).read_bytes())
            found.to_rows(), found.complete
            return found
        except OSError as cause:
            raise EvaluationError(f"cannot read the evaluation {path}: {cause}") from cause
        except OverflowError as cause:
            raise EvaluationError(
                f"{path} holds values too large for a mean or deviation of them: {cause}"
            ) from cause
        except ValidationError as cause:
            first = cause.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the file"
            raise EvaluationError(
                f"{path} is no evaluation of schema {SCHEMA}: {key}: {first['msg']}"
            ) from cause

    def yield_above(self, threshold: float) -> tuple[Yield, ...]:
        """For every level the share of chips that reach ``threshold``, with an exact interval."""
        return tuple(level.yield_above(threshold) for level in self.levels)

    def yield_below(self, threshold: float) -> tuple[Yield, ...]:
        """The same for metrics of which less is better: chips at ``threshold`` or less."""
        return tuple(level.yield_below(threshold) for level in self.levels)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Where intervals may cover less often than they say, and what does not."""
        found = [level.doubt for level in self.levels]
        if not any(found):
            return ()
        reasons = "; ".join(dict.fromkeys(reason for reason in found if reason))
        bounded = [level.bounded_interval for level in self.levels]
        way = "measure more chips"
        if len(bounded) == 1 and bounded[0] is not None:
            low, high = bounded[0]
            way += f" (any distribution in its bounds: [{low:.5g}, {high:.5g}])"
        elif all(bounds is not None for bounds in bounded):
            way += ", or see Level.bounded_interval, which holds for any distribution"
        return (f"the intervals take values for normal: {reasons}; {way}",)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a level (eta, chips, mean, std, low, high, deterministic), for tables."""
        rows = []
        for level in self.levels:
            low, high = level.interval or (None, None)
            time = {} if level.drift_time is None else {"drift_time": level.drift_time}
            row = {"eta": level.eta} | time | {"chips": len(level.values), "mean": level.mean}
            rows.append(
                row
                | {"std": level.std, "low": low, "high": high}
                | {"deterministic": level.deterministic}
            )
        return rows

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        ax: Axes | None = None,
        *,
        label: str | None = None,
    ) -> Picture:
        """Draw the metric against eta, or against time where several times were asked for.

        Shown are the mean, the 95 % interval as a band and one std as error bars.

        A level without a number (the target's own noise) becomes a dashed horizontal line. Only
        Matplotlib's object interface is used, so no display is needed and no state is shared.

        Args:
            path: Where to write the figure; its suffix chooses the format.
            ax: Where to draw; a new figure by default. Draw several evaluations into one to
                compare them.
            label: Name in the legend; the target's by default.

        Returns:
            The figure, which shows itself in a notebook; ``figure.axes[0]`` are the axes.

        Raises:
            EvaluationError: nothing was measured yet, or the figure cannot be written.
        """
        from analogize.evaluation.plot import (
            draw_over_time,
            draw_robustness,
            figure_of,
            write_figure,
        )

        draw = draw_over_time if len(self.fingerprint.drift_times) > 1 else draw_robustness
        axes = draw(self, ax, label or self.target)
        if path is not None:
            write_figure(axes, path)
        return figure_of(axes)

    def __str__(self) -> str:
        """A table with one row a level."""
        table = Table(title=self._title(), title_justify="left")
        for name in self._columns():
            table.add_column(name, justify="right")
        for level in self.levels:
            table.add_row(*self._cells(level))
        given = [f"given chip {chip.name}: {_number(chip.value)}" for chip in self.given]
        return "\n".join([text(table), *given, *self.doubts])

    def __repr__(self) -> str:
        count = len(self.levels)
        return f"<Evaluation of {self._title()}: {count} level{'s' if count != 1 else ''}>"

    def _repr_html_(self) -> str:
        rows = [dict(zip(self._columns(), self._cells(x), strict=True)) for x in self.levels]
        return html(
            rows,
            self._title(),
            " ".join(("The interval is that of the mean over chips.", *self.doubts)),
        )

    def _title(self) -> str:
        samples = "no samples yet" if self.samples is None else f"{self.samples} samples"
        return f"{self.metric} on {self.target}, {samples}, seed {self.fingerprint.seed}"

    def _columns(self) -> tuple[str, ...]:
        timed = ("read after",) if self.fingerprint.drift_times else ()
        return "eta", *timed, "chips", "mean", "std", "95 % interval"

    def _cells(self, level: Level) -> tuple[str, ...]:
        chips = f"{len(level.values)}"
        if level.deterministic:
            chips = "all alike"
        elif len(level.values) < (needed := self.needed(self.levels.index(level))):
            chips += f" of {needed}"
        eta = "target's" if level.eta is None else f"{level.eta:g}"
        bounds = level.interval
        interval = "-" if bounds is None else f"[{bounds[0]:.5g}, {bounds[1]:.5g}]"
        time = () if level.drift_time is None else (describe(level.drift_time),)
        return eta, *time, chips, _number(level.mean), _number(level.std), interval


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
