"""Targets for a pretrained transformer, by name: what `minilm.py` measures and trains with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analogize import Target
from analogize.targets import load_target

COLUMN = {"range": {"kind": "absmax"}, "granularity": "channel"}
MINMAX = {"range": {"kind": "minmax"}}
VECTOR = {"range": {"kind": "vector"}}
LEAST = {"range": {"kind": "mse"}}
OFF: dict[str, Any] = {"bits": None}


def changed(name: str, **parts: Any) -> Target:
    """A built-in target with some keys of its parts replaced."""
    fields = load_target(name).model_dump(by_alias=True, mode="json")
    for part, value in parts.items():
        fields[part] = {**(fields[part] or {}), **value} if isinstance(value, dict) else value
    return Target.model_validate(fields)


def stages() -> Iterator[tuple[str, Target]]:
    """One stage of 8 bits at a time, then all of them, without noise."""
    grid = {"bits": 8, "grid": "affine"}
    for rule in ({"kind": "percentile"}, {"kind": "minmax"}, {"kind": "mse"}, {"kind": "vector"}):
        yield f"DAC alone, {rule['kind']}", changed("ideal", dac=grid | {"range": rule})
    for rule in ({"kind": "percentile"}, {"kind": "minmax"}, {"kind": "mse"}):
        yield f"ADC alone, {rule['kind']}", changed("ideal", adc=grid | {"range": rule})
    yield "ADC alone, a column", changed("ideal", adc=grid | MINMAX | {"granularity": "channel"})
    weights = {"bits": 8, "grid": "symmetric", "range": {"kind": "absmax"}}
    yield "weights alone, one scale", changed("ideal", weights=weights)
    yield "weights alone, a column", changed("ideal", weights=weights | COLUMN)
    yield "weights alone, 2 sigma", changed("ideal", weights=load_weights("pcm_8bit"))
    yield "all, pcm_8bit as it is", changed("pcm_8bit", noise=[])
    yield "all, and weights a column", changed("pcm_8bit", noise=[], weights=COLUMN)
    static = {"weights": COLUMN, "dac": LEAST, "adc": MINMAX}
    yield "all, and ranges that fit", changed("pcm_8bit", noise=[], **static)
    yield "all, and a DAC a vector", changed("pcm_8bit", noise=[], **static | {"dac": VECTOR})


def load_weights(name: str) -> dict[str, Any]:
    """The weights of a built-in target."""
    return load_target(name).weights.model_dump(mode="json")


def fitting(name: str, **parts: Any) -> Target:
    """A published device with the settings for transformers, and ``parts`` over them."""
    return changed(name, **{"weights": COLUMN, "dac": VECTOR, "adc": MINMAX} | parts)


def devices() -> Iterator[tuple[str, Target]]:
    """Published devices, as they are and with settings for transformers."""
    yield "pcm_joshi2020, fitting, two pairs", fitting("pcm_joshi2020", conductance={"pairs": 2})
    yield "pcm_joshi2020, fitting", fitting("pcm_joshi2020")
    yield "pcm_joshi2020", load_target("pcm_joshi2020")
    yield "reram_wan2022, fitting", fitting("reram_wan2022")
    yield "reram_wan2022, fitting, 8 bits", fitting("reram_wan2022", weights=COLUMN | {"bits": 8})
    yield "reram_wan2022", load_target("reram_wan2022")


def remedies() -> Iterator[tuple[str, Target]]:
    """The settings for transformers on pcm_joshi2020: one after the other, and all but one."""
    parts: dict[str, Any] = {
        "DAC a vector": {"dac": VECTOR},
        "weights a column": {"weights": COLUMN},
        "ADC by extremes": {"adc": MINMAX},
        "two pairs": {"conductance": {"pairs": 2}},
    }
    taken: dict[str, Any] = {}
    yield "as it is", load_target("pcm_joshi2020")
    for name, part in parts.items():
        taken |= part
        yield f"and {name}", changed("pcm_joshi2020", **taken)
    for name, part in parts.items():
        rest = {k: v for k, v in taken.items() if k not in part}
        if name != "two pairs":
            yield f"all but {name}", changed("pcm_joshi2020", **rest)
    yield (
        "all, and an ADC a column",
        fitting("pcm_joshi2020", adc=MINMAX | {"granularity": "channel"}, conductance={"pairs": 2}),
    )


def trained_for() -> Target:
    """What the student trains with: the very devices, drawn anew at every step.

    No weight is clipped: a range is a column's largest weight, as on the chips to come.
    """
    return fitting("pcm_joshi2020", conductance={"pairs": 2})
