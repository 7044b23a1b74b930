"""From a rewritten model to ONNX with one placeholder node for every analog call.

The weights of analog regions do not pass through torch's exporter at all: a placeholder knows its
region's number and nothing else, so that no copy of them is made.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from analogize.crossbar.ops import AnalogOp
from analogize.errors import ExportError
from analogize.model.calls import Call
from analogize.model.counting import eval_mode
from analogize.model.module import AnalogModule, DigitalProduct
from analogize.onnx.writing import axes, names
from analogize.onnx.writing.axes import DynamicAxes
from analogize.onnx.writing.kept import prepared
from analogize.onnx.writing.prepare import prepare_graph


@dataclass(frozen=True)
class Traced:
    """An exported graph, and what its placeholders and scopes stand for.

    Attributes:
        model: ONNX with placeholder nodes ``ai.analogize::AnalogCall`` (attribute ``region``).
        scopes: the digital product that is computed inside a module scope, by the scope's name.
        paths: the model's own path of each module that was wrapped.
    """

    model: ir.Model
    scopes: dict[str, DigitalProduct]
    paths: dict[str, str]


def trace(
    module: nn.Module,
    operators: tuple[AnalogOp, ...],
    call: Call,
    *,
    dynamic_batch: bool,
    opset: int,
    exact_batchnorm: bool,
    dynamic_axes: DynamicAxes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Traced:
    """Export ``module`` in eval mode.

    Args:
        module: the rewritten model: a graph, or one whose Python was kept.
        operators: its analog operators; placeholders know them by their position.
        call: example inputs.
        dynamic_batch: leave the first dimension of every input free.
        dynamic_axes: further free dimensions, as in ``export_onnx``.
        opset: the ONNX opset.
        exact_batchnorm: spell out BatchNorm with one rounding, as torch computes it.
        input_names: of the graph's inputs; the model's own by default.
        output_names: of its outputs, likewise.

    Raises:
        ExportError: torch cannot export the model, or not with free dimensions.
    """
    numbers = {op: number for number, op in enumerate(operators)}
    call = names.in_order(module, call).to(torch.device("cpu"))
    free = axes.free_axes(module, call, dynamic_batch, dynamic_axes or {})
    with eval_mode(module), torch.no_grad():
        if isinstance(module, AnalogModule):
            ready = prepare_graph(module, numbers, exact_batchnorm)
            with _on_cpu(ready.module):
                program = _export(ready.module, call, free, opset)
        else:
            with prepared(module, numbers, exact_batchnorm) as ready, _on_cpu(ready.module):
                program = _export(ready.module, call, free, opset)
    ends = program.model.graph.inputs, program.model.graph.outputs
    own = names.argument_names(module, call)
    if input_names is None:
        # What torch makes of further arguments, numbers for example, keeps torch's names.
        input_names = own if len(own) == len(ends[0]) else [v.name or "" for v in ends[0]]
    given = list(input_names)
    if output_names is None:
        structure = program.exported_program.module_call_graph[0].signature.out_spec
        output_names = names.distinct(names.output_names(structure, len(ends[1])), given)
    symbols = axes.symbols(ends[0], own, free)
    names.name_interface(program.model, given, list(output_names), symbols)
    return Traced(program.model, ready.scopes, ready.paths)


@contextmanager
def _on_cpu(module: nn.Module) -> Iterator[None]:
    """Within the block ``module`` has copies on the CPU in the place of its parameters and buffers.

    Torch gives every node that stands for an operator of ours an output on the CPU, and breaks some
    operators up by the device that they are on; a file knows of neither.
    """
    own: list[tuple[dict[str, Any], str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device.type not in ("cpu", "meta"):
                    own.append((tensors, name, tensor))
    for _, _, tensor in own:
        moved = tensor.detach().cpu()
        # What is tied stays tied.
        is_parameter = isinstance(tensor, nn.Parameter)
        copies.setdefault(id(tensor), nn.Parameter(moved, False) if is_parameter else moved)
    try:
        for held, name, tensor in own:
            held[name] = copies[id(tensor)]
        yield
    finally:
        for held, name, tensor in own:
            held[name] = tensor


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter logs and warns about its own internals; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(module: nn.Module, call: Call, free: axes.Free, opset: int) -> Any:
    args, kwargs, shapes = call.args, dict(call.kwargs), None
    if any(free.values()):
        (args, kwargs), shapes = axes.made_free(module, call, free)
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:
        raise _refusal(error, free) from error


def _refusal(error: BaseException, free: axes.Free) -> ExportError:
    """What torch's exporter failed at, which it says in the causes of what it raises."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    ours = next((c for c in causes if isinstance(c, ExportError)), None)
    if ours is not None:
        return ours
    found = {name for sizes in free.values() for name in sizes.values()}
    hint = "; if its code fixes the batch size, use dynamic_batch=False" if found else ""
    if found - {axes.BATCH}:
        hint += f", and leave out of dynamic_axes what it fixes ({', '.join(sorted(found))})"
    return ExportError(f"torch cannot export the model: {_first_line(causes[-1])}{hint}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
