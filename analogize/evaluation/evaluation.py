"""What a Monte Carlo evaluation found: values per chip, their statistics, JSON, table and plot."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, computed_field
from rich.table import Table

from analogize.crossbar.seeds import chip_seed
from analogize.devices.times import describe
from analogize.display.tables import Shown, html, shortened, text
from analogize.drafts import drafting
from analogize.errors import EvaluationError
from analogize.evaluation.fingerprint import Fingerprint
from analogize.evaluation.intervals import stein_count, stein_interval, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analogize.evaluation.plot import Picture

SCHEMA: Final = 1
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Level(BaseModel):
    """The chips of one noise level.

    Attributes:
        eta: The noise level asked for; None is the target's own noise.
        drift_time: Seconds between programming and measuring; None where no time was asked for.
        values: The metric on each chip, in the order of ``Evaluation.seeds``.
        seeds: The seed of each value's chip; empty in results of before it was kept.
        deterministic: Whether nothing was drawn at this level, neither a chip nor anything else:
            then one pass says it all, and ``values`` holds one value for any number of chips.
        pilot: Where chips were drawn to a precision: how many of the first ones decided how many
            were needed, and give the interval its standard deviation.
    """

    # Statistics are written to the file for its readers, and computed again when it is read.
    model_config = ConfigDict(frozen=True, extra="ignore")

    eta: FiniteFloat | None
    drift_time: FiniteFloat | None = None
    values: tuple[FiniteFloat, ...] = ()
    seeds: tuple[int, ...] = ()
    deterministic: bool = False
    pilot: int | None = Field(default=None, ge=2)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Its values by their number, where they are many."""
        return shortened(iter(super().__repr_args__()))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float | None:
        """Mean over chips; None before the first."""
        return statistics.mean(self.values) if self.values else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def std(self) -> float | None:
        """Standard deviation over chips (ddof = 1); None below two chips that differ by noise."""
        if self.deterministic:
            return 0.0
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean over chips (Student's t); None below two chips."""
        if self.deterministic and self.values:
            return self.values[0], self.values[0]
        if self.pilot is not None and len(self.values) > self.pilot:
            return stein_interval(self.values, self.pilot)
        return t_interval(self.values)


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
        return stein_count(values[: self.instances], self.precision)

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
        file = Path(path)
        text = self.model_dump_json(by_alias=True, indent=1)
        try:
            with drafting(file) as folder:
                draft = folder / file.name
                draft.write_text(text + "\n", encoding="utf-8")
                os.replace(draft, file)
        except OSError as cause:
            raise EvaluationError(f"cannot write the evaluation to {file}: {cause}") from cause

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
        return text(table)

    def _repr_html_(self) -> str:
        rows = [dict(zip(self._columns(), self._cells(x), strict=True)) for x in self.levels]
        return html(rows, self._title(), "The interval is that of the mean over chips.")

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
