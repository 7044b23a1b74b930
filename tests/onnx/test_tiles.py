"""Tiles that convert their own sums, bit slicing, chips of devices: files equal torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import (
    analogize,
    export_onnx,
    load_onnx,
    noise_mode,
    program,
    read_regions,
    regions,
)
from analogize.errors import ExportError
from analogize.model.module import AnalogModule
from analogize.targets import load_target
from analogize.targets.spec import GaussianNoise, Target


class Net(nn.Module):
    """Every way to cut: taps of one channel in two tiles, groups, transposed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, groups=2, stride=2, output_padding=1)
        self.plain = nn.ConvTranspose2d(4, 3, 3)
        self.conv = nn.Conv2d(3, 20, 3, stride=2)
        self.fc = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.plain(torch.relu(self.up(self.grouped(x)))))
        return self.fc(torch.relu(x).amax((2, 3)))


class Small(nn.Module):
    """Few sums, for targets that cut each of them into many digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).amax((2, 3)))


def tiled(name: str, **parts: Any) -> Target:
    """A built-in target on tiles so small that every layer of the test needs several."""
    fields = load_target(name).model_dump(by_alias=True)
    fields["array"] = (fields["array"] or {}) | {"rows": 8, "cols": 8, "tiling": True}
    for key, values in parts.items():
        fields[key] = values if isinstance(values, list) else fields[key] | values
    return Target.model_validate(fields)


def outputs(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path))
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return torch.from_numpy(np.asarray(found))


def clean(model: AnalogModule, x: Tensor) -> Tensor:
    with torch.no_grad(), noise_mode(model, "off"):
        result: Tensor = model(x)
    return result


def rewritten(target: Target, kind: type[nn.Module] = Net, channels: int = 4) -> Any:
    torch.manual_seed(0)
    return analogize(kind(), target, [torch.randn(8, channels, 4, 4)]).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


SLICED = tiled(
    "isaac",
    weights={"bits": 5},
    dac={"bits": 5},
    adc={"bits": 6},
    array={"cell_bits": 2, "input_bits": 3},
)
# Target, form, and whether bit equality is promised: sums of codes with bits in DAC and weights.
CASES = [
    ("reram_wan2022", "flat", True),
    ("pcm_8bit", "functions", True),
    ("pcm_hermes", "flat", False),
    ("pcm_joshi2020", "functions", False),
    ("sonos_tcas2022", "flat", True),
]


@pytest.mark.parametrize(("name", "form", "exact"), CASES)
def test_every_tile_converts_its_own_sum(name: str, form: Any, exact: bool, path: Path) -> None:
    model, x = rewritten(tiled(name)), torch.randn(3, 4, 4, 4)
    exported = export_onnx(model, path, x[:1], form)
    onnx.checker.check_model(str(path), full_check=True)
    assert exported.numerics.exact == exact, exported.numerics.reasons
    assert [len(r.tiles.sums) for r in exported.manifest.regions] == [3, 3, 5, 4, 3]
    expected = clean(model, x)
    if exact:
        assert torch.equal(outputs(path, x), expected)
    else:
        # Float sums in another order may cross the edge of a code; most do not.
        assert torch.isclose(outputs(path, x), expected, atol=1e-6).float().mean() > 0.7
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), expected)
    found = read_regions(path)
    assert [r.id for r in found] == [r.name for r in regions(model)]
    assert all(r.missing == () and r.weight is not None for r in found)


def test_the_manifest_lists_the_rows_of_every_tile(path: Path) -> None:
    entry = export_onnx(rewritten(tiled("pcm_8bit")), path, torch.randn(1, 4, 4, 4)).manifest
    conv = next(r.tiles for r in entry.regions if r.id == "conv")
    # 3 channels of 9 taps on tiles of 8 rows: the boundaries cut channels 0, 1 and 2.
    assert [s.rows for s in conv.sums] == [(0, 8), (8, 16), (16, 24), (24, 27)]
    assert [s.inputs for s in conv.sums] == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert conv.tile == (8, 8)
    assert conv.grid == (4, 3)
    assert conv.count == 12
    names = [n.name for n in onnx.load(path).graph.node if n.op_type == "Conv"]
    assert [n for n in names if n.startswith("conv/")] == [f"conv/mac/tile{i}" for i in range(4)]


@pytest.mark.parametrize("form", ["flat", "functions"])
def test_digits_of_weights_and_inputs(form: Any, path: Path) -> None:
    model, x = rewritten(SLICED, Small, 1), torch.randn(3, 1, 4, 4)
    exported = export_onnx(model, path, x[:1], form)
    onnx.checker.check_model(str(path), full_check=True)
    assert exported.numerics.exact, exported.numerics.reasons
    expected = clean(model, x)
    assert torch.equal(outputs(path, x), expected)
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), expected)
    # 4 magnitude bits in cells of 2, inputs 3 bits at a time: 2 x 2 products a row of tiles.
    assert exported.manifest.regions[0].tiles.cells == 2
    assert exported.manifest.regions[0].weight.cell_bits is None
    graph = onnx.load(path)
    nodes = [*graph.graph.node, *(n for f in graph.functions for n in f.node)]
    assert sum(n.op_type == "Conv" for n in nodes) == 2 * 4


def test_a_chip_of_digits_keeps_every_cell(path: Path) -> None:
    noise = (GaussianNoise(eta=0.1),)
    noisy = SLICED.model_copy(update={"noise": noise})
    model, x = rewritten(noisy, Small, 1), torch.randn(5, 1, 4, 4)
    program(model, 3)
    exported = export_onnx(model, path, x[:1], noise="programmed")
    weight = exported.manifest.regions[0].weight
    assert weight.cell_bits == 2
    assert next(
        list(t.dims) for t in onnx.load(path).graph.initializer if t.name == weight.initializer
    ) == [2, *weight.shape]
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(load_onnx(path)(x), expected)
    assert torch.isclose(outputs(path, x), expected, atol=1e-6).float().mean() > 0.7
    export_onnx(model, path, x[:1], noise="runtime")
    assert not torch.equal(outputs(path, x), clean(model, x))


@pytest.mark.parametrize("name", ["pcm_hermes", "pcm_joshi2020"])
def test_a_drifted_chip_keeps_its_weights_and_its_compensation(name: str, path: Path) -> None:
    model, x = rewritten(tiled(name)), torch.randn(5, 4, 4, 4)
    program(model, 3, drift_time="1 day", compensation="column")
    exported = export_onnx(model, path, x[:1], noise="programmed")
    onnx.checker.check_model(str(path), full_check=True)
    assert not exported.numerics.exact
    factors = exported.manifest.regions[-1].correction
    # A day of drift loses conductance, which every column's factor makes up for.
    assert isinstance(factors, tuple)
    assert len(factors) == 3
    assert min(factors) > 1
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(load_onnx(path)(x), expected)
    assert torch.isclose(outputs(path, x), expected, atol=1e-6).float().mean() > 0.7


READS = [
    {"model": "read", "additive": 0.02, "multiplicative": 0.1},
    {"model": "output", "std": 0.01},
]


@pytest.mark.parametrize("array", [None, {"rows": 16, "cols": 8, "tiling": True}])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_noise_of_products_has_torchs_spread(granularity: str, array: Any, path: Path) -> None:
    target = load_target("pcm_8bit").model_dump(by_alias=True) | {"noise": READS, "array": array}
    target["weights"] |= {"granularity": granularity}
    torch.manual_seed(0)
    spec = Target.model_validate(target)
    model = analogize(nn.Sequential(nn.Linear(24, 16)), spec, [torch.randn(64, 24)]).eval()
    x = torch.randn(1, 24).expand(4096, -1).contiguous()
    export_onnx(model, path, x[:1], noise="runtime")
    with torch.no_grad():
        expected = model(x).std(0)
    # Each of two sample deviations of 4096 draws has a relative error of 1/sqrt(2 * 4096) = 1.1 %;
    # 16 channels, five of both together.
    assert torch.allclose(outputs(path, x).std(0), expected, rtol=0.08)


def test_noise_that_no_graph_can_draw_is_refused(path: Path) -> None:
    x = torch.randn(1, 4, 4, 4)
    for name, model in (("pcm_joshi2020", "programming"), ("reram_wan2022", "relaxation")):
        with pytest.raises(ExportError, match=f"'{model}' acts on the conductances .* one chip"):
            export_onnx(rewritten(tiled(name)), path, x, noise="runtime")
    custom = {"model": "custom", "function": "analogize.crossbar.noise:gaussian"}
    with pytest.raises(ExportError, match="'custom' is a Python function"):
        export_onnx(rewritten(tiled("pcm_8bit", noise=[custom])), path, x, noise="runtime")
    assert not path.exists()


def test_a_chip_says_that_its_read_noise_is_left_out(path: Path) -> None:
    exported = export_onnx(
        rewritten(tiled("sonos_tcas2022")), path, torch.randn(1, 4, 4, 4), noise=1
    )
    assert any("read, output" in reason for reason in exported.numerics.reasons)
