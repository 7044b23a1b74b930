"""The draws of a chip block by block: the bits of the same draw as a whole, from any place on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogize.devices.random import Draws, chip_draw
from analogize.devices.streams import BlockDraws, OneDraw, after, streams


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["normal", "uniform"]),
    planes=st.integers(1, 4),
    size=st.integers(40, 70_000),
    block=st.integers(1, 40_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_planes_of_a_draw_are_those_of_the_whole_draw(
    kind: str, planes: int, size: int, block: int, dtype: torch.dtype
) -> None:
    like = torch.empty(planes, size, dtype=dtype)
    whole = chip_draw(like, torch.Generator().manual_seed(size), kind)
    block = max(block, size // 50)
    found = streams(torch.Generator().manual_seed(size), kind, planes, size)
    out = torch.empty_like(like)
    for begin in range(0, size, block):
        for stream, plane in zip(found, out, strict=True):
            stream.fill(plane[begin : begin + block])
    assert torch.equal(out, whole)


def test_draws_by_name_are_a_chip_s_whatever_the_blocks() -> None:
    draws = Draws("chip/region")
    whole = draws.part("digit 1").normal("model", torch.empty(2, 1, 300, 7))
    by_block = BlockDraws.of(draws, 2100).part("digit 1")
    parts = [by_block.normal("model", torch.empty(2, 1, rows, 7)) for rows in (100, 3, 197)]
    assert torch.equal(torch.cat(parts, 2), whole)


@pytest.mark.parametrize("size", [160, 161])
def test_a_generator_goes_on_after_a_draw(size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    chip_draw(torch.empty(size), generator)
    second = chip_draw(torch.empty(size), generator)
    again = torch.Generator().manual_seed(3)
    torch.empty(after(size)).uniform_(generator=again)
    found = OneDraw.begin(again, size).part("noise 1").normal("normal", torch.empty(1, size))
    assert torch.equal(found.view(-1), second)
