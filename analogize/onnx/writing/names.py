"""The model's own names for the inputs and outputs of its graph, and for their free dimensions.

Torch's exporter names an output after the operator that makes it, and a free dimension by a symbol
of its own. Here inputs are called like the arguments (``x``; the keys and positions of nested ones
behind an underscore: ``boxes_0``), outputs like the keys or fields of what the model returns, or
``output`` and ``output_0``, ``output_1``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.utils._pytree import (
    TreeSpec,
    tree_flatten_with_path,
    tree_map_with_path,
    tree_unflatten,
)

from analogize.errors import ExportError
from analogize.model.calls import Call


def in_order(module: nn.Module, call: Call) -> Call:
    """The same call with its named arguments in the order of the signature.

    In another order torch's exporter confuses inputs with one another.
    """
    known = list(inspect.signature(module.forward).parameters)
    place = {name: k for k, name in enumerate(known)}
    names = sorted(call.kwargs, key=lambda name: place.get(name, len(place)))
    return Call(call.args, {name: call.kwargs[name] for name in names})


def argument_names(module: nn.Module, call: Call) -> list[str]:
    """A name for every tensor of ``call``, in the order in which it is flattened."""
    return [name for name, _ in named_tensors(module, call)]


def named_tensors(module: nn.Module, call: Call) -> list[tuple[str, Tensor]]:
    """Every tensor of ``call`` with its name, likewise."""
    given = [*zip(_positions(module, call), call.args, strict=False), *call.kwargs.items()]
    return [found for start, value in given for found in _tensors(start, value)]


def mapped(
    module: nn.Module,
    call: Call,
    function: Callable[[str, Tensor], Any],
    other: Callable[[Any], Any] = lambda leaf: leaf,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of ``call`` with ``function`` of each tensor and its name in its place.

    Args:
        module: what is called.
        call: its arguments.
        function: of a name and a tensor.
        other: what stands for each leaf that is no tensor.
    """

    def changed(start: str, value: Any) -> Any:
        def leaf(path: Sequence[Any], found: Any) -> Any:
            is_tensor = isinstance(found, Tensor)
            return function(_joined(start, path), found) if is_tensor else other(found)

        return tree_map_with_path(leaf, value)

    starts = _positions(module, call)
    args = tuple(changed(start, value) for start, value in zip(starts, call.args, strict=False))
    return args, {name: changed(name, value) for name, value in call.kwargs.items()}


def _positions(module: nn.Module, call: Call) -> list[str]:
    """The names of the positional arguments."""
    positional: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = len(call.args) - len(positional)
            positional += [f"{parameter.name}_{k}" for k in range(rest)]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append(parameter.name)
    return positional


def output_names(spec: TreeSpec | None, count: int) -> list[str]:
    """A name for each of ``count`` outputs, from the structure of what the model returns."""
    if spec is None or spec.num_leaves != count:
        return [f"output_{k}" for k in range(count)] if count > 1 else ["output"]
    leaves, _ = tree_flatten_with_path(tree_unflatten(list(range(count)), spec))
    return [_joined("", path) if _is_named(path) else _joined("output", path) for path, _ in leaves]


def name_interface(
    model: ir.Model,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dimensions: Mapping[str, str],
) -> None:
    """Give the graph's inputs, outputs and free dimensions their names.

    Whatever else has one of these names takes another.

    Args:
        model: what torch's exporter made.
        inputs: one name an input.
        outputs: one name an output.
        dimensions: names of free dimensions by the exporter's symbols.

    Raises:
        ExportError: so many names do not fit, or one is given twice.
    """
    graph = model.graph
    for what, ends, names in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        if len(ends) != len(names):
            raise ExportError(
                f"{what}_names has {len(names)} names ({', '.join(names)}), and the graph has "
                f"{len(ends)} {what}s"
            )
    wanted = [*inputs, *outputs]
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise ExportError(f"'{twice[0]}' would name two inputs or outputs; give other names")
    ends = [*graph.inputs, *graph.outputs]
    for value in _values(graph):
        if value.name in wanted and not any(value is end for end in ends):
            value.name = f"{value.name}_inside"
    for position, value in enumerate(ends):
        value.name = f"analogize_end_{position}"
    for value, name in zip(ends, wanted, strict=True):
        value.name = name
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(d, dimensions) for d in value.shape])


def distinct(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """``names`` with ``_out`` behind those that are taken."""
    return [f"{name}_out" if name in taken else name for name in names]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _renamed(size: Any, names: Mapping[str, str]) -> Any:
    text = size.value if isinstance(size, ir.SymbolicDim) else None
    if text is None:
        return size

    def change(found: re.Match[str]) -> str:
        return names.get(found[0], found[0])

    return ir.SymbolicDim(re.sub(r"\w+", change, text))


def _tensors(start: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    for path, leaf in tree_flatten_with_path(value)[0]:
        if isinstance(leaf, Tensor):
            yield _joined(start, path), leaf


def _joined(start: str, path: Sequence[Any]) -> str:
    parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    return "_".join([start, *parts] if start else parts)


def _is_named(path: Sequence[Any]) -> bool:
    """Whether what stands first is a key or a field, and no position."""
    return bool(path) and not hasattr(path[0], "idx")
