"""How far weights fill their range, which decides how much noise they stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from analogize import Target, analogize, clip_weights, summary


def test_filling_by_hand_and_in_the_table(make_target: Callable[..., Target]) -> None:
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, -1.0, 1.0, 0.0]]))
    weights = {"range": {"kind": "fixed", "min": -2, "max": 2}}
    model = analogize(layer, make_target(weights=weights))
    (row,) = summary(model).rows
    # The 4 becomes 2, the end of the range: (4 + 1 + 1 + 0) / 4 over 2 squared.
    assert row.fill == pytest.approx((6 / 4) ** 0.5 / 2)
    assert row.clipped == 0.25
    clip_weights(model)
    # A projected weight sits on the end, and counts as clipped.
    assert summary(model).rows[0].clipped == 0.25
    assert summary(model).to_rows()[0]["fill"] == row.fill


def test_channels_have_ranges_of_their_own(make_target: Callable[..., Target]) -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0], [8.0, 8.0]]))
    weights = {"range": {"kind": "absmax"}, "granularity": "channel"}
    (row,) = summary(analogize(layer, make_target(weights=weights))).rows
    assert row.fill == pytest.approx(1.0)


def test_without_a_range_nothing_is_filled() -> None:
    (row,) = summary(analogize(nn.Linear(2, 2), "ideal")).rows
    assert row.fill is None
    assert row.clipped is None
