"""Random small graphs export, run, and read back equal."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from analogize import analogize, export_onnx, load_onnx, noise_mode, read_regions, regions
from analogize.crossbar.ops import operators
from analogize.model.module import AnalogModule
from analogize.onnx.manifest import Form
from analogize.targets.spec import (
    Array,
    Converter,
    FullRange,
    GaussianNoise,
    LeastSquaresRange,
    MinMaxRange,
    PercentileRange,
    StdRange,
    Target,
    VectorRange,
    Weights,
)


class Chain(nn.Module):
    """Convolutions with or without BatchNorm and skips, then linear layers."""

    def __init__(self, layers: list[tuple[int, int, bool, bool]], width: int) -> None:
        super().__init__()
        self.skips = [skip for *_, skip in layers]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for kernel, groups, norm, _ in layers:
            self.convs.append(nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=groups))
            self.norms.append(nn.BatchNorm2d(4) if norm else nn.Identity())
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, skip in zip(self.convs, self.norms, self.skips, strict=True):
            y = torch.relu(norm(conv(x)))
            x = y + x if skip else y
        x = x.amax((2, 3))
        return self.last(torch.relu(self.first(x)))


LAYERS = st.lists(
    st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 2, 4]), st.booleans(), st.booleans()),
    min_size=1,
    max_size=3,
)
GRIDS = st.sampled_from(["affine", "symmetric"])


RULES = st.sampled_from([PercentileRange(), MinMaxRange(), LeastSquaresRange()])


def arrays(digits: bool) -> st.SearchStrategy[Array | None]:
    """No tiles, or small ones that convert their own sums, of digits too where they may be."""
    sizes = st.integers(3, 12)
    bits = st.none() | st.integers(1, 4) if digits else st.none()
    tiles = st.builds(
        Array, rows=sizes, cols=sizes, tiling=st.just(True), cell_bits=bits, input_bits=bits
    )
    return st.none() | tiles


@st.composite
def targets(draw: st.DrawFn) -> Target:
    bits = st.integers(2, 8)
    full = draw(st.booleans())
    return Target(
        name="random",
        weights=Weights(
            range=StdRange(multiple=2.0),
            bits=draw(bits),
            grid=draw(GRIDS),
            granularity=draw(st.sampled_from(["tensor", "channel"])),
        ),
        noise=(GaussianNoise(eta=0.02),),
        dac=Converter(
            bits=draw(bits),
            grid=draw(GRIDS),
            range=draw(st.sampled_from([LeastSquaresRange(), VectorRange()])),
        ),
        adc=Converter(
            bits=draw(bits),
            grid="symmetric" if full else draw(GRIDS),
            range=FullRange()
            if full
            else draw(st.sampled_from([PercentileRange(), MinMaxRange()])),
            granularity="tensor" if full else draw(st.sampled_from(["tensor", "channel"])),
        ),
        array=draw(arrays(digits=full)),
    )


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    layers=LAYERS,
    width=st.integers(2, 9),
    target=targets(),
    seed=st.integers(0, 1000),
)
def test_round_trip(
    layers: list[tuple[int, int, bool, bool]],
    width: int,
    target: Target,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    model = Chain(layers, width)
    model(torch.randn(32, 4, 6, 6))
    analog = analogize(model.eval(), target, [torch.randn(16, 4, 6, 6)])
    x = torch.randn(3, 4, 6, 6)
    with torch.no_grad(), noise_mode(analog, "off"):
        expected = analog(x)
    for form in get_args(Form):
        _check(analog, form, x, expected)


def _check(analog: AnalogModule, form: Form, x: Tensor, expected: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exported = export_onnx(analog, path, x[:1], form)
        onnx.checker.check_model(str(path), full_check=True)
        session = onnxruntime.InferenceSession(str(path))
        actual = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        found, loaded = read_regions(path), load_onnx(path)

    assert exported.numerics.exact, exported.numerics.reasons
    assert np.array_equal(actual, expected.numpy())
    with torch.no_grad():
        assert torch.equal(loaded(x), expected)
    assert [r.id for r in found] == [r.name for r in regions(analog)]
    for region, made, op in zip(found, operators(analog), regions(analog), strict=True):
        assert region.entry is not None
        assert len(region.entry.tiles.sums) == (len(made.tiles.pieces) if made.tiles else 0)
        assert region.weight is not None
        assert region.weight.shape == op.weight_shape
