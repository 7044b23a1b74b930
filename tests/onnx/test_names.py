"""Graph inputs and outputs are called what the model calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from analogize import analogize, export_onnx, load_onnx, noise_mode
from analogize.errors import ExportError


class Named(nn.Module):
    """A number among the arguments, one given by name, nested outputs, and an input returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, scale: int = 2, *, mask: Any = None) -> dict[str, Any]:
        y = self.layer(x)
        return {"logits": y, "features": (x, y * scale + mask)}


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.layer(pair[0]), self.layer(pair[1])


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.layer(x)}


X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def ends(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    session = onnxruntime.InferenceSession(str(path))
    found = session.get_inputs(), session.get_outputs()
    first, second = ({end.name: end.shape for end in each} for each in found)
    return first, second


def test_arguments_keys_and_positions_name_the_graph(tmp_path: Path) -> None:
    # Named arguments in another order than the signature's.
    call = {"mask": torch.ones(3, 4), "scale": 3, "x": X}
    model = analogize(Named(), "pcm_8bit", calibration=[(call,)]).eval()
    path = tmp_path / "m.onnx"
    export_onnx(model, path, call)

    batch = ["batch", 8], ["batch", 4]
    inputs, outputs = ends(path)
    assert inputs == {"x": batch[0], "mask": batch[1]}
    assert outputs == {"logits": batch[1], "features_0": batch[0], "features_1": batch[1]}
    feed = {"x": X[:2].numpy(), "mask": np.ones((2, 4), np.float32)}
    found = onnxruntime.InferenceSession(str(path)).run(None, feed)
    with torch.no_grad(), noise_mode(model, "off"):
        expected = model(X[:2], 3, mask=torch.ones(2, 4))
    wanted = [expected["logits"], *expected["features"]]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(found, wanted, strict=True))
    assert not [
        dimension.dim_param
        for value in onnx.load(path).graph.value_info
        for dimension in value.type.tensor_type.shape.dim
        if dimension.dim_param and "batch" not in dimension.dim_param
    ]


def test_positions_name_what_has_no_name(tmp_path: Path) -> None:
    sample = ((X, X + 1),)
    model = analogize(Listed(), "ideal", example_inputs=sample).eval()
    export_onnx(model, tmp_path / "m.onnx", sample)
    inputs, outputs = ends(tmp_path / "m.onnx")
    assert list(inputs) == ["pair_0", "pair_1"]
    assert list(outputs) == ["output_0", "output_1"]


def test_an_output_with_an_inputs_name_is_told_apart(tmp_path: Path) -> None:
    model = analogize(Same(), "ideal", example_inputs=X).eval()
    export_onnx(model, tmp_path / "m.onnx", X)
    inputs, outputs = ends(tmp_path / "m.onnx")
    assert (list(inputs), list(outputs)) == (["x"], ["x_out"])


@pytest.mark.parametrize("form", ["flat", "functions"])
def test_names_of_ones_own(form: Any, tmp_path: Path) -> None:
    model = analogize(nn.Sequential(nn.Linear(8, 4)), "pcm_8bit", calibration=[X]).eval()
    path = tmp_path / "m.onnx"
    export_onnx(model, path, X, form, input_names=["image"], output_names=["scores"])
    inputs, outputs = ends(path)
    assert (list(inputs), list(outputs)) == (["image"], ["scores"])
    with torch.no_grad(), noise_mode(model, "off"):
        assert torch.equal(load_onnx(path)(X), model(X))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"input_names": ["a", "b"]}, "input_names has 2 names \\(a, b\\), and the graph has 1"),
        ({"output_names": []}, "output_names has 0 names"),
        ({"input_names": ["a"], "output_names": ["a"]}, "'a' would name two"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    names: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = analogize(nn.Sequential(nn.Linear(8, 4)), "ideal", example_inputs=X).eval()
    with pytest.raises(ExportError, match=message):
        export_onnx(model, tmp_path / "m.onnx", X, **names)
