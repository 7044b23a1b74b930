"""Annotated ONNX: one file that runs anywhere and says which part goes to which array.

exported = export_onnx(analog, "model.onnx", sample)
print(exported.numerics)                  # exact, or the reasons why not
regions = read_regions("model.onnx")      # typed, from any file a tool left of it
again = load_onnx("model.onnx")           # a runnable analog module with the same outputs
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from analogize.crossbar.fitted import tell_of_another_chip
from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.ops import operators as all_operators
from analogize.crossbar.seeds import integer
from analogize.errors import ChipError, ExportError
from analogize.model.calls import Call, example_call
from analogize.model.module import AnalogModule
from analogize.model.parts import report_of, unwrapped
from analogize.onnx.manifest import Arithmetic, Form, Manifest, Promise
from analogize.onnx.writing.assemble import assemble
from analogize.onnx.writing.axes import DynamicAxes
from analogize.onnx.writing.plan import NoiseKind, plan_regions
from analogize.onnx.writing.storage import WeightStorage, code_widths
from analogize.onnx.writing.trace import trace
from analogize.onnx.writing.write import EXTERNAL_ABOVE, require_place, write

logger = logging.getLogger("analogize")

_OPSETS = range(18, 24)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the model.
        files: every file: the model, and its external weights if there are any.
        manifest: what the file says about its analog regions.
    """

    path: Path
    files: tuple[Path, ...]
    manifest: Manifest

    @property
    def numerics(self) -> Promise:
        """Whether onnxruntime's outputs equal torch's bit for bit, or why not."""
        return self.manifest.numerics

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    sample: Any,
    form: Form = "flat",
    noise: Literal["runtime", "programmed"] | int | None = None,
    dynamic_batch: bool = True,
    *,
    weights: WeightStorage = "auto",
    arithmetic: Arithmetic = "float",
    opset: int = 21,
    external_above: int = EXTERNAL_ABOVE,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: DynamicAxes | None = None,
) -> Exported:
    """Write ``model`` as ONNX with its analog regions annotated.

    Without noise, and where every region has a DAC and weights with bits, onnxruntime's outputs
    equal those of ``model.eval()`` under ``noise_mode(model, "off")`` bit for bit, on CPUs, for
    every batch size. The result says whether that holds for this model and, if not, why.

    Args:
        model: a model that ``analogize`` rewrote, in float32, calibrated. It is not changed.
        path: the file to write; it appears whole or not at all.
        sample: example inputs: a tensor, a tuple of positional or a mapping of named ones.
        form: ``"flat"``, standard operators only; or ``"functions"``, one call node a region to a
            function in the domain ``ai.analogize``.
        noise: None for clean weights, which is logged where a chip is programmed;
            ``"runtime"`` to draw fresh weight noise at every run;
            ``"programmed"`` for the chip that ``program(model, seed)`` left; a number for the chip
            of that seed, without programming the model.
        dynamic_batch: leave the first dimension of every input free.
        weights: ``"auto"``, INT4 codes up to 4 bits and UINT8 up to 8; ``"int8"``, UINT8 for
            both; ``"float"``, float32.
        arithmetic: ``"float"``, codes as float32, exact; ``"integer"``, ConvInteger and
            MatMulInteger where DAC and weights have 8-bit codes, exact and faster; ``"qdq"``, a
            pattern that onnxruntime fuses to QLinearConv, fastest and up to one ADC step off;
            ``"plain"``, Div, Round and Clip on float32, weights too, exact, for consumers that
            know no quantized types.
        opset: ONNX opset, 18 to 23. Before 21 there are no 4-bit and 16-bit codes: UINT8 and
            float32 hold them then, with the same outputs.
        external_above: bytes of weights beyond which they go to ``<path>.data``.
        input_names: names of the graph's inputs, in order; by default the model's own arguments,
            with keys and positions of nested ones behind an underscore.
        output_names: names of its outputs; by default the keys or fields of what the model returns,
            or ``output``, or ``output_0`` and so on.
        dynamic_axes: further free dimensions, by the model's own argument (with keys and positions
            as above) and axis, each with a name: ``{"input_ids": {1: "sequence"}}`` runs at any
            length. Axes of one name have one size.

    Returns:
        What was written.

    Raises:
        ExportError: not a rewritten model, a wrong option, a model that torch cannot export, or a
            path that cannot be written.
        CalibrationError: a converter has bits and no range.
        ChipError: ``"programmed"`` without a valid chip.
    """
    model = unwrapped(model)
    _check(model, form, arithmetic, weights, opset)
    require_place(Path(path))
    operators = _called(model)
    kind, seed = _noise(noise)
    if kind == "none" and any(op.array.chip is not None for op in operators):
        logger.warning(
            "a chip is programmed, and the file gets the clean weights; noise='programmed' "
            "writes the chip's"
        )
    call = example_call(sample)
    _check_sample(call)
    storage: WeightStorage = weights
    if arithmetic in ("integer", "qdq") and weights == "auto":
        # Integer kernels take 8-bit operands only.
        storage = "int8"
    named = {found.op: found for found in located(model)}
    if kind == "programmed" and seed is not None:
        chip = [(f, f.op.array.origin_of(seed, f.array)) for f in named.values()]
        tell_of_another_chip(model, chip)
    widths = code_widths(opset, arithmetic)
    plans = plan_regions([named[op] for op in operators], kind, seed, storage, widths)
    exact_batchnorm = kind == "none" and all(p.max_accumulator is not None for p in plans)
    traced = trace(
        model,
        operators,
        call,
        dynamic_batch=dynamic_batch,
        dynamic_axes=dynamic_axes,
        opset=opset,
        exact_batchnorm=exact_batchnorm,
        input_names=input_names,
        output_names=output_names,
    )
    report = report_of(model)
    target = report.target if report is not None else "unknown"
    manifest = assemble(traced, plans, target, form, arithmetic)
    files = write(traced.model, path, external_above)
    return Exported(Path(path), files, manifest)


def _called(model: nn.Module) -> tuple[AnalogOp, ...]:
    """Operators in the order in which the graph first calls them; kept Python has none."""
    if not isinstance(model, AnalogModule):
        return all_operators(model)
    found: list[AnalogOp] = []
    for node in model.graph.nodes:
        owner = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(owner, AnalogOp) and owner not in found:
            found.append(owner)
    return tuple(found)


def _check(model: nn.Module, form: str, arithmetic: str, weights: str, opset: int) -> None:
    if not all_operators(model):
        raise ExportError(
            f"{type(model).__name__} has no analog regions; rewrite it with analogize() first"
        )
    choices = (("form", form, Form), ("arithmetic", arithmetic, Arithmetic))
    for name, value, allowed in (*choices, ("weights", weights, WeightStorage)):
        if value not in get_args(allowed):
            options = ", ".join(map(repr, get_args(allowed)))
            raise ExportError(f"{name}={value!r} is unknown; allowed are {options}")
    if arithmetic == "plain" and weights == "int8":
        raise ExportError(
            "arithmetic='plain' has no quantized types, so that weights='int8' cannot be kept: use "
            "weights='auto', which is float32 there, or arithmetic='float'"
        )
    if opset not in _OPSETS:
        raise ExportError(
            f"opset {opset!r} is not supported; use {_OPSETS[0]} to {_OPSETS[-1]} (4-bit types "
            "begin with 21)"
        )


def _noise(noise: Any) -> tuple[NoiseKind, int | None]:
    if noise is None:
        return "none", None
    if noise == "runtime" or noise == "programmed":
        return noise, None
    try:
        return "programmed", integer(noise)
    except ChipError as cause:
        raise ExportError(
            f"noise={noise!r} is unknown; allowed are None, 'runtime', 'programmed' and a chip's "
            "seed, an integer"
        ) from cause


def _check_sample(call: Call) -> None:
    tensors = [v for v in tree_leaves((call.args, dict(call.kwargs))) if isinstance(v, Tensor)]
    if not tensors:
        raise ExportError("sample holds no tensor; give the inputs of one forward pass")
