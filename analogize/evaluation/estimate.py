"""An estimate over chips and samples with its standard errors, and the jackknife behind them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from analogize.display.tables import Shown
from analogize.errors import EvaluationError
from analogize.files.writing import writing


class Estimate(BaseModel):
    """A number estimated from a finite number of chips on a finite number of samples.

    Chips and samples are crossed: every chip sees every sample. Their variances add, and the sum
    is at worst too large by their interaction (Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1, 2007).

    Attributes:
        value: The estimate.
        chips: Standard error from the finite number of chips, the data held fixed.
        samples: Standard error from the finite number of samples.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    chips: float
    samples: float

    @property
    def error(self) -> float:
        """Standard error from both."""
        return math.hypot(self.chips, self.samples)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.1g}"

    def scaled(self, factor: float) -> Estimate:
        """The estimate times a constant."""
        return Estimate(
            value=self.value * factor,
            chips=self.chips * abs(factor),
            samples=self.samples * abs(factor),
        )


class Result(Shown, BaseModel):
    """A result that goes to a JSON file and back, and shows itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a row; the fields themselves where there is one row."""
        rows = getattr(self, "rows", (self,))
        return [_flat(row.model_dump()) for row in rows]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON.

        Raises:
            EvaluationError: the file cannot be written.
        """
        with writing(path, "the result", EvaluationError) as draft:
            draft.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            EvaluationError: the file cannot be read or holds something else.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as cause:
            raise EvaluationError(f"cannot read {os.fspath(path)}: {cause}") from cause
        except ValidationError as cause:
            raise EvaluationError(f"{os.fspath(path)} holds no {cls.__name__}: {cause}") from cause


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Numbers and text as they are, an interval as two; what is itself a table is left out."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "interval" and value is not None:
            flat |= {"low": value[0], "high": value[1]}
        elif isinstance(value, tuple) and all(isinstance(x, str) for x in value):
            flat[name] = ", ".join(value)
        elif value is None or isinstance(value, bool | int | float | str):
            flat[name] = value
    return flat


def jackknife_error(left_out: Tensor) -> float:
    """The standard error from the estimates that leave out one unit each.

    sqrt((n - 1) / n sum_i (theta_(-i) - mean)^2); consistent for U-statistics (Arvesen,
    "Jackknifing U-statistics", Annals of Mathematical Statistics 40, 1969), and on average not too
    small (Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9, 1981).

    Args:
        left_out: shape (n,), estimate without unit i at i.
    """
    count = left_out.numel()
    if count < 2:
        return 0.0
    values = left_out.double()
    return math.sqrt((count - 1) / count * float((values - values.mean()).square().sum()))


def error_of_mean(values: Tensor) -> float:
    """Standard error of the mean of independent ``values``, shape (n,); 0 below two."""
    if values.numel() < 2:
        return 0.0
    return float(values.double().std()) / math.sqrt(values.numel())
