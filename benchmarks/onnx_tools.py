"""What common ONNX tools leave of an annotated file: regions, numbers, and whether it still loads.

    python benchmarks/onnx_tools.py

A small convolutional network and a small transformer, in both forms, through each tool. Counts the
regions that ``read_regions`` finds, by the strongest sign that is left of each, runs the result in
onnxruntime, and loads it with ``load_onnx``.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import onnxscript.optimizer
import onnxsim
import onnxslim
import torch
from onnx import version_converter
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from analogize import analogize, export_onnx, load_onnx, read_regions
from analogize.errors import ExportError
from analogize.models import DigitsNet
from analogize.onnx.manifest import Form


def with_onnx_ir(source: Path, result: Path) -> None:
    """Read and write."""
    onnx_ir.save(onnx_ir.load(source), result)


def with_onnxscript(source: Path, result: Path) -> None:
    """Onnxscript's optimizer, which inlines functions."""
    model = onnx_ir.load(source)
    onnxscript.optimizer.optimize(model)
    onnx_ir.save(model, result)


def with_onnxruntime(source: Path, result: Path) -> None:
    """The model as onnxruntime's optimizer saves it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(result)
    onnxruntime.InferenceSession(str(source), options)


def with_onnxsim(source: Path, result: Path) -> None:
    """onnxsim, which folds constants."""
    simplified, equal = onnxsim.simplify(onnx.load(source))
    assert equal, "onnxsim's own comparison failed"
    onnx.save(simplified, result)


def with_onnxslim(source: Path, result: Path) -> None:
    """Onnxslim."""
    onnx.save(onnxslim.slim(onnx.load(source)), result)


def with_version_converter(source: Path, result: Path) -> None:
    """Onnx's own converter between opsets."""
    onnx.save(version_converter.convert_version(onnx.load(source), 22), result)


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "onnx-ir": with_onnx_ir,
    "onnxscript": with_onnxscript,
    "onnxruntime": with_onnxruntime,
    "onnxsim": with_onnxsim,
    "onnxslim": with_onnxslim,
    "version_converter": with_version_converter,
}


def transformer() -> nn.Module:
    """Two encoder layers and a head, on sequences of vectors."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(16, 32), encoder, nn.Linear(32, 10))


# What to build, the shape of a sample, and the target.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "convolutional": (DigitsNet, (1, 8, 8), "pcm_4bit"),
    "transformer": (transformer, (6, 16), "pcm_8bit"),
}


@dataclass(frozen=True)
class Survival:
    """What a tool left.

    Attributes:
        regions: how many there were.
        found: regions by the strongest sign left of each; ``"nothing"`` where there is none.
        missing: regions of which something cannot be found any more.
        difference: onnxruntime's largest difference to the file before; None where it refuses.
        loaded: ``load_onnx``'s, or None where it refuses.
    """

    regions: int
    found: dict[str, int]
    missing: int
    difference: float | None
    loaded: float | None


def exported(name: str, form: Form, path: Path) -> Tensor:
    """Write one of the networks; returns inputs for it."""
    build, shape, target = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.rand(8, *shape)
    export_onnx(analogize(build().eval(), target, [x]), path, x, form)
    return x[:5]


def outputs(path: Path, x: Tensor) -> np.ndarray:
    """Onnxruntime's outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def survival(tool: str, source: Path, result: Path, x: Tensor) -> Survival:
    """Run ``tool`` on ``source`` and look at ``result``."""
    TOOLS[tool](source, result)
    expected, regions = outputs(source, x), read_regions(result)
    difference: float | None = None
    loaded: float | None = None
    try:
        difference = float(np.abs(outputs(result, x) - expected).max())
    except Exception:  # onnxruntime's exceptions have no common base but this one
        assert tool == "version_converter", "no other tool is known to break a file"
    try:
        with torch.no_grad():
            loaded = float(np.abs(load_onnx(result)(x).numpy() - expected).max())
    except ExportError as error:
        print(f"{tool}: {error}")
    found = Counter(str(r.found_by or "nothing") for r in regions)
    missing = sum(r.missing != () for r in regions)
    return Survival(len(read_regions(source)), dict(found), missing, difference, loaded)


def _text(difference: float | None, refused: str) -> str:
    if difference is None:
        return refused
    return "equal" if difference == 0 else f"differs by {difference:.2g}"


def main() -> None:
    """Run everything; print a table."""
    warnings.simplefilter("ignore")
    table = Table("network", "form", "tool", "regions", "found by", "onnxruntime", "load_onnx")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "source.onnx", Path(folder) / "result.onnx"
        for name in NETWORKS:
            for form in get_args(Form):
                x = exported(name, form, source)
                for tool in TOOLS:
                    left = survival(tool, source, result, x)
                    whole = sum(left.found.values()) - left.missing
                    table.add_row(
                        name,
                        form,
                        tool,
                        f"{whole} of {left.regions}",
                        ", ".join(left.found),
                        _text(left.difference, "does not run"),
                        _text(left.loaded, "refused"),
                    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
