"""Models of every interface, opsets, and what goes wrong with files."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogize import analogize, export_onnx, load_onnx, noise_mode, read_regions
from analogize.demo.models import DigitsNet
from analogize.errors import ExportError
from analogize.onnx.manifest import MANIFEST_KEY, SCHEMA_KEY, Manifest
from analogize.targets import Target, load_target


class TwoInTwoOut(nn.Module):
    """Two inputs of different ranks, one given by name, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 3), nn.Linear(5, 3)

    def forward(self, image: Tensor, *, vector: Tensor) -> tuple[Tensor, Tensor]:
        features, words = self.conv(image), self.fc(vector)
        return features + words[:, :, None, None], torch.relu(words)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


class Volumes(nn.Module):
    """Three spatial dimensions, strided, grouped and transposed; and a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1), groups=2)
        self.up = nn.ConvTranspose3d(4, 2, 2, stride=2)
        self.line = nn.Conv1d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(torch.relu(self.up(torch.relu(self.conv(x)))).flatten(2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def expected(model: Any, *args: Tensor, **kwargs: Tensor) -> Any:
    with torch.no_grad(), noise_mode(model, "off"):
        return model(*args, **kwargs)


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    names = [i.name for i in session.get_inputs()]
    given = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return [np.asarray(y) for y in session.run(None, given)]


@pytest.mark.parametrize("form", ["flat", "functions"])
def test_several_inputs_and_outputs(form: Any, path: Path) -> None:
    torch.manual_seed(0)
    sample = {"image": torch.rand(4, 1, 6, 6), "vector": torch.rand(4, 5)}
    model = analogize(TwoInTwoOut().eval(), "pcm_8bit", [sample])
    exported = export_onnx(model, path, sample, form)
    assert exported.numerics.exact, exported.numerics.reasons
    onnx.checker.check_model(str(path), full_check=True)
    image, vector = torch.rand(2, 1, 6, 6), torch.rand(2, 5)
    wanted = expected(model, image, vector=vector)
    for y, want in zip(run(path, image, vector), wanted, strict=True):
        assert np.array_equal(y, want.numpy())
    with torch.no_grad():
        again = load_onnx(path)(image, vector)
    assert all(torch.equal(y, want) for y, want in zip(again, wanted, strict=True))


@pytest.mark.parametrize("target", ["pcm_4bit", "reram_wan2022"])
def test_three_spatial_dimensions(target: str, path: Path) -> None:
    torch.manual_seed(0)
    model = analogize(Volumes().eval(), target, [torch.randn(4, 2, 4, 4, 4)])
    x = torch.randn(3, 2, 4, 4, 4)
    exported = export_onnx(model, path, x[:1])
    assert exported.numerics.exact, exported.numerics.reasons
    onnx.checker.check_model(str(path), full_check=True)
    wanted = expected(model, x)
    assert np.array_equal(run(path, x)[0], wanted.numpy())
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), wanted)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_two_layers_in_both_directions(kind: type[nn.RNNBase], path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5)
    model = analogize(Recurrent(kind).eval(), "pcm_8bit", [x])
    export_onnx(model, path, x)
    wanted = expected(model, x)
    # Sigmoid and tanh differ in their last bits, which the next DAC hides unless at a code's edge.
    assert np.isclose(run(path, x)[0], wanted.numpy(), atol=1e-5).mean() > 0.9
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), wanted)
    # Four directions with an input and a recurrent product each, and the head.
    assert len(read_regions(path)) == 9


@pytest.fixture(scope="module")
def digits() -> Any:
    torch.manual_seed(0)
    return analogize(DigitsNet().eval(), "pcm_4bit", [torch.rand(8, 1, 8, 8)])


@pytest.mark.parametrize("opset", [18, 20, 22, 23])
def test_other_opsets(opset: int, digits: Any, path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    export_onnx(digits, path, x[:1], opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    imports = {i.domain: i.version for i in onnx.load(path).opset_import}
    assert imports[""] == opset
    assert np.array_equal(run(path, x)[0], expected(digits, x).numpy())
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), expected(digits, x))


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("target", ["pcm_4bit", "pcm_8bit", "isaac"])
def test_plain_arithmetic_has_no_quantized_type_and_the_same_outputs(
    target: str, opset: int, path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.rand(5, 1, 8, 8)
    model = analogize(DigitsNet().eval(), target, [x]).eval()
    exported = export_onnx(model, path, x, arithmetic="plain", opset=opset)
    assert exported.numerics.exact
    graph = onnx.load(path).graph
    assert not {node.op_type for node in graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    kinds = {weight.data_type for weight in graph.initializer}
    assert kinds <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert np.array_equal(run(path, x)[0], expected(model, x).numpy())
    with torch.no_grad():
        assert torch.equal(load_onnx(path)(x), expected(model, x))


def test_plain_arithmetic_does_not_keep_weights_in_8_bits(digits: Any, path: Path) -> None:
    with pytest.raises(ExportError, match=r"plain.*no quantized types.*int8"):
        export_onnx(digits, path, torch.rand(1, 1, 8, 8), arithmetic="plain", weights="int8")
    assert not path.exists()


def test_before_opset_21_codes_of_12_bits_are_floats(path: Path) -> None:
    x = torch.rand(5, 1, 8, 8)
    wide = load_target("pcm_8bit").model_dump(by_alias=True, mode="json")
    wide["dac"]["bits"] = wide["adc"]["bits"] = wide["weights"]["bits"] = 12
    model = analogize(DigitsNet().eval(), Target.model_validate(wide), [x]).eval()
    export_onnx(model, path, x, opset=20)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    found, wanted = run(path, x)[0], expected(model, x).numpy()
    # Sums of 12-bit codes pass 2^24: one step of the last ADC, at most.
    step = float(model.fc2.analog.adc.scale)
    assert np.abs(found - wanted).max() <= 1.001 * step


def test_unsupported_opsets_are_refused(digits: Any, path: Path, tmp_path: Path) -> None:
    for opset in (17, 24):
        with pytest.raises(ExportError, match=f"opset {opset} is not supported; use 18 to 23"):
            export_onnx(digits, path, torch.rand(1, 1, 8, 8), opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_leaves_what_was_there(digits: Any, tmp_path: Path) -> None:
    x = torch.rand(1, 1, 8, 8)
    (tmp_path / "file").write_text("mine")
    for bad, words in (
        (tmp_path / ("x" * 300 + ".onnx"), "cannot write the model"),
        (tmp_path / "file" / "model.onnx", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(ExportError, match=words):
            export_onnx(digits, bad, x)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_write_that_fails_half_way_keeps_the_former_file(digits: Any, path: Path) -> None:
    x = torch.rand(1, 1, 8, 8)
    export_onnx(digits, path, x)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ExportError, match=r"cannot write the model to .*: File too large"):
            export_onnx(digits, path, x, "functions")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_external_weights_that_are_cut_or_gone(digits: Any, path: Path) -> None:
    export_onnx(digits, path, torch.rand(1, 1, 8, 8), external_above=1000)
    data = path.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:100])
    for read in (read_regions, load_onnx):
        with pytest.raises(ExportError, match="external weights"):
            read(path)
    data.unlink()
    with pytest.raises(ExportError, match="external weights"):
        read_regions(path)


Change = Callable[[dict[str, str]], None]


def _no_json(metadata: dict[str, str]) -> None:
    metadata[MANIFEST_KEY] = metadata[MANIFEST_KEY][:-20]


def _other_version(metadata: dict[str, str]) -> None:
    metadata[SCHEMA_KEY] = "99"


def _foreign_key(metadata: dict[str, str]) -> None:
    metadata[MANIFEST_KEY] = metadata[MANIFEST_KEY].replace('"producer"', '"maker"')


def _lost_region(metadata: dict[str, str]) -> None:
    manifest = Manifest.model_validate_json(metadata[MANIFEST_KEY])
    calls = tuple(
        c.model_copy(update={"output": "gone", "last": "gone"}) for c in manifest.regions[0].calls
    )
    first = manifest.regions[0].model_copy(update={"calls": calls})
    changed = manifest.model_copy(update={"regions": (first, *manifest.regions[1:])})
    metadata[MANIFEST_KEY] = changed.to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_json, "not a valid manifest"),
        (_other_version, "is '99'; this version of analogize reads 1"),
        (_foreign_key, "not a valid manifest: .*maker"),
        (_lost_region, "region 'conv1' computes tensor 'gone'"),
    ],
)
def test_a_manifest_that_is_none(change: Change, words: str, digits: Any, path: Path) -> None:
    export_onnx(digits, path, torch.rand(1, 1, 8, 8))
    model = onnx.load(path)
    metadata = {p.key: p.value for p in model.metadata_props}
    change(metadata)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    with pytest.raises(ExportError, match=words):
        load_onnx(path)


class Padded(nn.Module):
    """Reads its weight with a padding that the size of the batch decides."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(1, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(x, self.kernel, padding=len(x) % 2)


def test_a_product_that_the_example_did_not_show_is_refused(path: Path) -> None:
    x = torch.randn(3, 1, 9)
    analog = analogize(Padded(), "pcm_4bit", [x], example_inputs=x).eval()
    export_onnx(analog, path, x, dynamic_batch=False)
    with pytest.raises(ExportError, match=r"reads its weight as .*padding=\(0,\).* here"):
        export_onnx(analog, path, x[:2], dynamic_batch=False)
