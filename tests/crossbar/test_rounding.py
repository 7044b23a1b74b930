"""The converters' arithmetic: single steps and the fused kernel give the same bits."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analogize.crossbar.rounding import accumulate, convert, quantized

FUSED = """
import torch
from analogize.crossbar import rounding

torch.manual_seed(0)
for dtype in (torch.float32, torch.float16):
    for shape in ((5,), (3, 7, 4, 4), (0,), (70, 33)):
        values = (torch.randn(shape) * 20).to(dtype)
        flat = values.view(-1)
        if flat.numel():
            flat[:5] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.75, -1e4])
        steps = torch.tensor(0.7)
        views = [values, values.transpose(0, -1), values[::2]]
        if values.ndim == 4:
            views.append(values.to(memory_format=torch.channels_last))
        for view in views:
            for gain in (None, torch.tensor(0.31)):
                results = []
                for fused in (True, False):
                    rounding._INTERPRETED = fused
                    assert rounding.can_fuse(view) is fused
                    results.append(
                        rounding.convert(view.clone(), steps, -8, 7, gain, torch.float32, True)
                    )
                (one, beyond), (other, reference) = results
                assert torch.equal(one.nan_to_num(99.0), other.nan_to_num(99.0)), (dtype, shape)
                assert torch.equal(beyond, reference), (dtype, shape)
            totals = []
            for fused in (True, False):
                rounding._INTERPRETED = fused
                # In memory it lies in an order of its own.
                total = torch.randn(view.shape, generator=torch.Generator().manual_seed(1))
                total = total.to(dtype) * 30
                beyond = rounding.accumulate(total, view.clone(), steps, -8, 7, True)
                totals.append((total, beyond))
            (one, beyond), (other, reference) = totals
            assert torch.equal(one.nan_to_num(99.0), other.nan_to_num(99.0)), (dtype, shape)
            assert torch.equal(beyond, reference), (dtype, shape)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_the_fused_kernel_gives_the_bits_of_the_single_steps() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", FUSED], env=environment, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("place", ["cuda", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_accelerator_gives_the_bits_of_the_cpu(dtype: torch.dtype, place: str) -> None:
    values = (torch.randn(1000) * 20).to(dtype)
    step, gain = torch.tensor(0.7), torch.tensor(0.31)
    expected, outside = convert(values.clone(), step, -8, 7, gain, dtype, wants_beyond=True)
    step, gain = step.to(place), gain.to(place)
    found, beyond = convert(values.cuda(), step, -8, 7, gain, dtype, True)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)
    assert outside is not None
    assert beyond is not None
    assert torch.equal(beyond.cpu(), outside)


def test_conversions_add_up_in_place() -> None:
    values, step, total = torch.randn(50) * 20, torch.tensor(0.7), torch.randn(50)
    codes, _ = convert(values.clone(), step, -8, 7, None, torch.float32)
    expected = total + codes
    assert accumulate(total, values.clone(), step, -8, 7) is None
    assert torch.equal(total, expected)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.floats(2**-10, 2**10, width=32),
    st.integers(2, 8),
)
def test_codes_are_the_nearest_integers_in_range(
    values: list[float], step: float, bits: int
) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x, s = torch.tensor(values), torch.tensor(step)
    codes = quantized(x, s, low, high, None, torch.float32)
    expected = [min(max(round(q), low), high) for q in (x / s).tolist()]
    assert codes.tolist() == expected
    converted, beyond = convert(x.clone(), s, low, high, s, torch.float32, wants_beyond=True)
    assert torch.equal(converted, codes * s)
    assert beyond is not None
    saturates = [not low <= round(q) <= high for q in (x / s).tolist()]
    assert beyond.bool().tolist() == saturates
