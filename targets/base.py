"""What every part of the target schema rests on: strict numbers and the immutable base model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

# Strict numbers: "8" and true are typing errors in a YAML file, not numbers.
Bits = Annotated[int, Field(strict=True, ge=1, le=16)]
Count = Annotated[int, Field(strict=True, ge=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Level = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
Percentile = Annotated[float, Field(strict=True, ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


def require_constants(schema: dict[str, Any]) -> None:
    """List `schema`, `kind` and `model` as required: they have one value, but files must say it."""
    constants = [key for key, value in schema.get("properties", {}).items() if "const" in value]
    if constants:
        schema["required"] = constants + schema.get("required", [])


def refuse(key: str, reason: str) -> PydanticCustomError:
    """An error about the value under ``key`` (dotted, relative to the model that raises it)."""
    return PydanticCustomError("inconsistent", "{reason}", {"key": key, "reason": reason})


class Spec(BaseModel):
    """Base of every part of a target: immutable, hashable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        json_schema_extra=require_constants,
    )
