"""save(): a rewritten model as one file."""

from __future__ import annotations

import contextlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.fitted import fits
from analogize.crossbar.ops import AnalogOp, operators
from analogize.errors import SavingError
from analogize.model.module import AnalogModule, Report
from analogize.model.offloading import refuse_offloaded
from analogize.model.parts import parts, unwrapped
from analogize.model.sharding import own_part, whole
from analogize.saving.container import flatten, whole_numbers, write
from analogize.saving.manifest import Manifest, Part
from analogize.saving.programmed import describe_chip

EXAMPLE = "example."


def save(model: nn.Module, path: str | os.PathLike[str], *, chip: bool = False) -> Path:
    """Write a rewritten model to one safetensors file, from which ``load`` makes it again.

    The file holds the target in full, what was chosen to stay digital, the front ends, all weights,
    ranges and buffers, and the inputs that the model was rewritten with. The model may be one that
    contains analog parts, also of different targets; torch.compile's, DataParallel's and
    DistributedDataParallel's wrappers are taken off. A fully sharded model is gathered, so every
    process must call this; give each a path of its own.

    Args:
        model: what ``analogize`` returned, or a module with such parts.
        path: the file; replaced as a whole or not at all.
        chip: whether the programmed chip is saved with it.

    Returns:
        The path.

    Raises:
        SavingError: nothing in the model is analog, no chip is programmed, or the state dict holds
            what such a file cannot; or the file cannot be written.
    """
    return write(path, *_described(unwrapped(model), chip, with_state=True))


def describe(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint needs beside the state dict, so that ``load`` makes the model from both.

    Returns:
        The manifest as JSON, and the tensors of the example that the model was rewritten with:
        plain data for ``torch.load(weights_only=True)``.

    Raises:
        SavingError: as ``save``.
    """
    tensors, manifest = description(model, chip=False)
    return {"manifest": manifest.model_dump_json(), "tensors": tensors}


def description(model: nn.Module, chip: bool) -> tuple[dict[str, Tensor], Manifest]:
    """The manifest without the state dict, and the tensors that go with it: chip and example.

    Raises:
        SavingError: as ``save``.
    """
    return _described(model, chip, with_state=False)


def _described(
    model: nn.Module, chip: bool, with_state: bool
) -> tuple[dict[str, Tensor], Manifest]:
    refuse_offloaded(model)
    places = parts(model)
    if not places:
        raise _nothing_analog(model)
    state = model.state_dict()
    tied = _tied(state)
    tensors = _tensors(state, tied) if with_state else {}
    extra = {key: _plain(key, value) for key, value in state.items() if not _is_tensor(value)}
    chips = describe_chip(model, tensors) if chip else {}
    described = tuple(_part(place.rstrip("."), m, tensors) for place, m in places.items())
    inside = _analog_keys(model)
    return tensors, Manifest(
        versions={name: metadata.version(name) for name in ("analogize", "torch")},
        model=_class_of(model),
        training=model.training,
        own={
            key: tuple(value.shape)
            for key, value in state.items()
            if _is_tensor(value) and not key.startswith(inside)
        },
        tied=tied,
        unsaved=_unsaved(model),
        extra=extra,
        parts=described,
        chips=chips,
        fitted=fits(model),
    )


def _nothing_analog(model: nn.Module) -> SavingError:
    kind = type(model).__name__
    if operators(model):
        return SavingError(
            f"this {kind} was taken out of the model that was rewritten, and what describes it "
            "stayed there (PeftModel.merge_and_unload does so): save the whole, or merge first "
            "and rewrite what comes out"
        )
    return SavingError(
        f"{kind} has no analog part; save digital models with torch.save or safetensors"
    )


def _unsaved(model: nn.Module) -> dict[str, str]:
    """The types of buffers that no state dict has: whoever makes the model makes them anew."""
    inside, saved = _analog_keys(model), model.state_dict().keys()
    return {
        name: str(buffer.dtype).removeprefix("torch.")
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and name not in saved and not name.startswith(inside)
    }


def _class_of(model: nn.Module) -> str:
    """The class that a fresh digital model is of."""
    kept = getattr(type(model), "_analog_origin", None)
    original = type(model) if kept is None else kept()[0]
    if isinstance(model, AnalogModule):
        return original.__name__
    return f"{original.__module__}.{original.__qualname__}"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _tied(state: dict[str, Any]) -> dict[str, str]:
    """The names that share another one's tensor, which comes first."""
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            continue
        # Of shards, whose whole has no place in memory; an empty one has a storage, but no address.
        part = own_part(value)
        where = (part.untyped_storage()._cdata, part.storage_offset())
        same = (*where, value.shape, value.stride(), value.dtype)
        if (first := seen.setdefault(same, key)) != key:
            tied[key] = first
    return tied


def _tensors(state: dict[str, Any], tied: dict[str, str]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or key in tied:
            continue
        if value.is_meta or value.layout != torch.strided:
            kind = "on the meta device" if value.is_meta else f"of layout {value.layout}"
            raise SavingError(f"'{key}' is {kind}; only tensors with values in place can be saved")
        kept[key] = whole_numbers(whole(value))
    return kept


def _plain(key: str, value: Any) -> Any:
    try:
        if json.loads(json.dumps(value)) == value:
            return value
    except (TypeError, ValueError):
        pass
    raise SavingError(
        f"the state dict's entry '{key}' is a {type(value).__name__}, which this file cannot hold; "
        "let get_extra_state return tensors, numbers, text, lists or dictionaries of text keys"
    )


def _analog_keys(model: nn.Module) -> tuple[str, ...]:
    """What the names of analog operators' own entries begin with."""
    return tuple(f"{path}." for path, m in model.named_modules() if isinstance(m, AnalogOp))


def _part(path: str, module: nn.Module, tensors: dict[str, Tensor]) -> Part:
    report: Report = module.__dict__["report"]
    if report.settings is None:
        raise SavingError(
            f"'{path or type(module).__name__}' does not know its target, as models read from ONNX "
            "do not; keep the ONNX file instead"
        )
    _require_in_their_places(module)
    example = None
    if report.example is not None:
        call = (report.example.args, dict(report.example.kwargs))
        # Where it is no such call, load() says that it needs example_inputs.
        with contextlib.suppress(TypeError):
            example = flatten(call, tensors, EXAMPLE)
    return Part(
        path=path,
        target=report.settings.model_dump(mode="json", by_alias=True, exclude_unset=True),
        front_end=report.capture,
        declined=report.declined,
        digital=report.digital,
        chosen=_chosen(report),
        total_macs=report.total_macs,
        samples=report.samples,
        log=report.log,
        regions=tuple(op.region for op in operators(module)),
        example=example,
    )


def _require_in_their_places(module: nn.Module) -> None:
    """Refuse what was wrapped after it was rewritten: ``load`` would rewrite it elsewhere."""
    places = {id(m): path for path, m in module.named_modules()}
    for op in operators(module):
        for name, owner in op.stored.owners():
            path = places.get(id(owner))
            if path != name.rpartition(".")[0]:
                raise SavingError(
                    f"region '{op.region.name}': the layer that holds '{name}' is at '{path}' now, "
                    "so it was wrapped after it was rewritten, as PEFT does. Save the model "
                    "without the wrapper (PEFT's save_pretrained writes the adapter), wrap it "
                    "before analogize(), or call merge_and_unload() and renew_ranges()"
                )


def _chosen(report: Report) -> tuple[str, ...]:
    return tuple(product.name for product in report.digital if product.chosen)
