"""Times as users write them."""

import pytest

from analogize.devices.times import describe, seconds
from analogize.errors import ChipError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (0, 0.0),
        (3.5, 3.5),
        ("1 day", 86400.0),
        ("2 Days", 172800.0),
        ("day", 86400.0),
        ("90s", 90.0),
        ("1.5 h", 5400.0),
        ("10 min", 600.0),
        ("1e3 seconds", 1000.0),
        ("250 us", 250e-6),
        ("1 year", 31536000.0),
    ],
)
def test_seconds(text: float | str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1", "yesterday", "1 fortnight", "-1 day", "1.2.3 s", "s s"])
def test_no_times(text: str) -> None:
    with pytest.raises(ChipError, match="drift_time"):
        seconds(text)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_impossible_times(value: float) -> None:
    with pytest.raises(ChipError, match="must be a finite time of at least 0 seconds"):
        seconds(value)


def test_describe() -> None:
    assert [describe(t) for t in (0.0, 20.0, 60.0, 7200.0, 86400.0, 31536000.0)] == [
        "0 s",
        "20 s",
        "1 minute",
        "2 hours",
        "1 day",
        "1 year",
    ]
