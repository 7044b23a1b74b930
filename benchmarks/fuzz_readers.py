"""The readers of files that fuzz.py tries, each with good files to start from."""

from __future__ import annotations

import copy
import io
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from analogize import analogize, distill, evaluate, export_onnx, load_onnx, read_regions
from analogize.cli.prepare import read_weights
from analogize.devices.fit import fit_programming_noise
from analogize.evaluation.evaluation import Evaluation
from analogize.targets import load_target, names
from analogize.targets.load import sources


@dataclass(frozen=True)
class Reader:
    """One way into analogize from a file.

    Attributes:
        read: reads a file of that kind.
        samples: good ones.
        suffix: of their names.
        kind: how they are mutated.
    """

    read: Callable[[Path], object]
    samples: tuple[bytes, ...]
    suffix: str
    kind: Literal["text", "bytes", "onnx", "mixed"] = "text"


def _target(folder: Path) -> Reader:
    files = resources.files("analogize.targets")
    samples = tuple((files / f"{name}.yaml").read_bytes() for name in names())

    def read(file: Path) -> None:
        sources(file)
        load_target(file, allow_functions=True).to_yaml()

    return Reader(read, samples, ".yaml")


def _measurements(folder: Path) -> Reader:
    rows = "".join(f"{g},{g + d}\n" for g in (2, 8, 16, 25) for d in (-0.5, 0.1, 0.2, 0.4))
    sample = f"target,measured\n{rows}".encode()
    return Reader(lambda file: fit_programming_noise(file).to_target("x"), (sample,), ".csv")


def _small() -> tuple[nn.Module, Tensor, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    x = torch.randn(2, 2, 4, 4)
    return model, x, [(x, torch.tensor([0, 1]))]


def _evaluation(folder: Path) -> Reader:
    model, _, data = _small()
    analog = analogize(model, "pcm_4bit", calibration=data)
    timed = analogize(model, "pcm_joshi2020", calibration=data)
    options = {"instances": 2, "progress": False}
    evaluate(analog, data, eta=[0.1, None], resume=folder / "a.json", **options)
    evaluate(timed, data, drift_time=[1.0, "1 day"], resume=folder / "b.json", **options)

    def read(file: Path) -> None:
        evaluation = Evaluation.load(file)
        evaluation.to_rows()
        str(evaluation)
        evaluate(analog, data, eta=[0.1, None], resume=file, **options)

    samples = tuple((folder / f"{name}.json").read_bytes() for name in "ab")
    return Reader(read, samples, ".json")


def _onnx(folder: Path) -> Reader:
    model, x, data = _small()
    for name, target, options in (
        ("a", "pcm_4bit", {}),
        ("b", "pcm_8bit", {"form": "functions"}),
        ("c", "isaac", {}),
        ("d", "pcm_8bit", {"noise": 3}),
    ):
        export_onnx(analogize(model, target, calibration=data), folder / name, x, **options)

    def read(file: Path) -> None:
        read_regions(file)
        with torch.no_grad():
            load_onnx(file)(x)

    return Reader(read, tuple((folder / name).read_bytes() for name in "abcd"), ".onnx", "onnx")


def _weights(folder: Path) -> Reader:
    samples = []
    for legacy in (False, True):
        stream = io.BytesIO()
        state = _small()[0].state_dict()
        torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
        samples.append(stream.getvalue())
    return Reader(read_weights, tuple(samples), ".pt", "bytes")


def _checkpoint(folder: Path) -> Reader:
    model, _, data = _small()
    student = analogize(model, "paper_resnet32")
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    sample = folder / "a.ckpt"
    # Children of a process that has run a backward pass itself can run none.
    child = multiprocessing.get_context("fork").Process(
        target=distill,
        args=(copy.deepcopy(student), model, data),
        kwargs={"epochs": 1, "resume": sample, **options},
    )
    child.start()
    child.join()

    def read(file: Path) -> None:
        distill(student, model, data, epochs=1, resume=file, **options)

    return Reader(read, (sample.read_bytes(),), ".ckpt", "bytes")


READERS: dict[str, Callable[[Path], Reader]] = {
    "target": _target,
    "measurements": _measurements,
    "evaluation": _evaluation,
    "onnx": _onnx,
    "weights": _weights,
    "checkpoint": _checkpoint,
}
