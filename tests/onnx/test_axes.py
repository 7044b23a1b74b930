"""Further free dimensions: a graph of one length that runs at others."""

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

WORDS, WIDTH, LONGEST = 30, 16, 12


class Encoder(nn.Module):
    """Tokens and a mask to states: attention over the length, and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        scores = self.query(x) @ self.key(x).mT / WIDTH**0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        return self.out(scores.softmax(-1) @ self.value(x))


def sample(rows: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(WORDS, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[:, -1] = 0
    return {"tokens": tokens, "mask": mask}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return analogize(Encoder().eval(), "pcm_8bit", [sample(8, 9)]).eval()


AXES = {"tokens": {1: "sequence"}, "mask": {1: "sequence"}}


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("batch", [True, False])
def test_one_length_runs_at_another(
    model: nn.Module, length: int, batch: bool, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.onnx"
    given = sample(2, length)
    export_onnx(model, path, given, dynamic_batch=batch, dynamic_axes=AXES)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    first = "batch" if batch else 2
    assert [i.shape for i in session.get_inputs()] == [[first, "sequence"]] * 2
    assert session.get_outputs()[0].shape == [first, "sequence", WIDTH]
    for rows, other in ((2, 9), (2, LONGEST), (5 if batch else 2, 4)):
        inputs = sample(rows, other)
        found = session.run(None, {k: v.numpy() for k, v in inputs.items()})[0]
        with torch.no_grad(), noise_mode(model, "off"):
            wanted = model(**inputs)
        # The softmax differs in its last bits, which the next DAC hides unless at a code's edge.
        assert np.isclose(found, wanted.numpy(), atol=1e-5).mean() > 0.9
    with torch.no_grad(), noise_mode(model, "off"):
        inputs = sample(2, 7)
        assert torch.isclose(load_onnx(path)(**inputs), model(**inputs), atol=1e-5).all()


def test_without_asking_a_length_stays_fixed(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    export_onnx(model, path, sample(2, 5))
    session = onnxruntime.InferenceSession(str(path))
    assert session.get_inputs()[0].shape == ["batch", 5]
    with pytest.raises(Exception, match="Expected: 5"):
        session.run(None, {k: v.numpy() for k, v in sample(2, 6).items()})


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.shift = nn.Linear(20, 3), nn.Parameter(torch.ones(20))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.shift)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"words": {1: "sequence"}}, "no tensor argument 'words'; it has tokens, mask"),
        ({"tokens": {2: "sequence"}}, "has 2 axes, and 2 is none of them"),
        ({"tokens": {1: "a length"}}, "letters, digits and underscores"),
    ],
)
def test_axes_that_there_are_not(
    model: nn.Module, asked: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(model, tmp_path / "encoder.onnx", sample(2, 5), dynamic_axes=asked)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_model_fixes_is_told(tmp_path: Path) -> None:
    x = torch.randn(4, 20)
    model = analogize(Fixed().eval(), "pcm_8bit", [x]).eval()
    with pytest.raises(ExportError, match=r"leave out of dynamic_axes what it fixes"):
        export_onnx(model, tmp_path / "f.onnx", x, dynamic_axes={"x": {1: "width"}})
