"""load(): a file that ``save`` wrote, back as the rewritten model."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from analogize.api import analogize
from analogize.crossbar.fitted import take_fits
from analogize.crossbar.ops import operators
from analogize.devices.custom import resolve
from analogize.errors import AnalogizeError, SavingError
from analogize.model.copying import copied
from analogize.model.module import Report
from analogize.saving.container import read, unflatten
from analogize.saving.manifest import Manifest, Part
from analogize.saving.programmed import CHIP, CORRECTION, GIVEN, hold_chip
from analogize.saving.store import EXAMPLE
from analogize.targets.functions import foreign, refusal
from analogize.targets.noise import CustomNoise
from analogize.targets.spec import Target

# Names of a file's tensors that are no entries of the state dict.
_NOT_STATE = (EXAMPLE, CHIP, CORRECTION, GIVEN)


def load(
    path: str | os.PathLike[str],
    model: nn.Module | Callable[[], nn.Module],
    *,
    device: torch.device | str = "cpu",
    example_inputs: Any = None,
    allow_functions: bool | Collection[str] = False,
) -> nn.Module:
    """The rewritten model that ``save`` wrote, bit for bit, its chip included.

    Args:
        path: the file; or a checkpoint of ``distill``'s, or of any training with the callback
            ``analogize.saving.lightning.DescribeAnalog``.
        model: a fresh digital model of the saved one's class, whose weights do not matter, or a
            callable that makes one. A model is copied and stays as it is, whatever happens.
        device: where the result is to be.
        example_inputs: how the model is called, where the file could not keep it; as for
            ``analogize``, of the only part.
        allow_functions: whether noise functions that the file's targets name may be imported and
            run: True for any, or those allowed.

    Raises:
        SavingError: the file is damaged, foreign or of a newer format; it names functions that are
            missing or were not allowed; or ``model`` is another: the first difference is named.
    """
    manifest, tensors = read(path)
    return rebuilt(manifest, tensors, model, path, device, example_inputs, allow_functions)


def rebuilt(
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    model: nn.Module | Callable[[], nn.Module],
    path: Any,
    device: torch.device | str,
    example_inputs: Any,
    allow_functions: bool | Collection[str],
) -> nn.Module:
    """The model that ``manifest`` and ``tensors`` describe; see ``load``.

    Args:
        manifest: what the file says.
        tensors: the file's.
        model: as for ``load``.
        path: the file, for errors.
        device: as for ``load``, like all that follow.
        example_inputs: likewise.
        allow_functions: likewise.
    """
    targets = [_target(part, path, allow_functions) for part in manifest.parts]
    fresh = copied(model) if isinstance(model, nn.Module) else model()
    _require_fits(fresh, manifest, path)
    state = {k: v for k, v in tensors.items() if not k.startswith(_NOT_STATE)}
    for name, first in manifest.tied.items():
        # Other writers keep another one of the names.
        kept = state.get(first, state.get(name))
        state |= {} if kept is None else {name: kept, first: kept}
    missing = next((key for key in manifest.own if key not in state), None)
    if missing is not None:
        raise SavingError(f"{path}: the weights lack '{missing}'; the file is not complete")
    _take_types(fresh, state, manifest, path)
    own = {key: state[key] for key in manifest.own}
    fresh.load_state_dict(own | _extra(fresh, manifest), strict=True)
    fresh.to(device)
    for part, target in zip(manifest.parts, targets, strict=True):
        fresh = _rewritten(fresh, part, target, tensors, example_inputs, path)
    _load_all(fresh, state | dict(manifest.extra), path)
    try:
        take_fits(fresh, manifest.fitted)
    except (AttributeError, ValueError) as cause:
        raise SavingError(f"{path}: its manifest is damaged: fitted: {cause}") from cause
    hold_chip(fresh, manifest, tensors, path, allow_functions)
    return fresh.train(manifest.training)


def _target(part: Part, path: Any, allowed: bool | Collection[str]) -> Target:
    where = f"{path}: part '{part.path}'" if part.path else f"{path}"
    try:
        target = part.read_target()
    except ValueError as cause:
        raise SavingError(f"{where}: its target cannot be read: {cause}") from cause
    for key, function in foreign(target, allowed):
        raise SavingError(f"{where}: {'.'.join(map(str, key))}: {refusal(function, 'load')}")
    overrides = [m for o in target.overrides for m in o.noise or ()]
    for noise in (*target.noise, *overrides):
        if isinstance(noise, CustomNoise):
            try:
                resolve(noise.function)
            except AnalogizeError as cause:
                raise SavingError(f"{where}: {cause}") from cause
    return target


def _require_fits(model: nn.Module, manifest: Manifest, path: Any) -> None:
    """Compare the digital model's entries with those that were saved; name the first difference."""
    if not isinstance(model, nn.Module):
        raise SavingError(f"a digital model is needed, not a {type(model).__name__}")
    here = {k: tuple(v.shape) for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    saved = manifest.own
    known = f"{path} holds a {manifest.model}, and {type(model).__name__} does not fit"
    for name, shape in saved.items():
        if name not in here:
            raise SavingError(f"{known}: it has no '{name}' of shape {tuple(shape)}")
        if here[name] != tuple(shape):
            raise SavingError(
                f"{known}: '{name}' has shape {here[name]} here and {tuple(shape)} in the file"
            )
    more = next((name for name in here if name not in saved), None)
    if more is not None:
        hint = ""
        if any(report_of_module(m) for m in model.modules()):
            hint = "; it was rewritten already, and a fresh digital model is needed"
        raise SavingError(f"{known}: the file has no '{more}'{hint}")


def report_of_module(module: nn.Module) -> bool:
    """Whether ``module`` is the root of an analog part."""
    return isinstance(module.__dict__.get("report"), Report)


def _take_types(
    model: nn.Module, state: Mapping[str, Tensor], manifest: Manifest, path: Any
) -> None:
    """Give parameters and buffers the saved types, so that loading rounds nothing."""
    named = [*model.named_parameters(), *model.named_buffers()]
    if any(t.is_meta for _, t in named):
        lost = next((n for n, t in model.named_buffers() if n not in state), None)
        if lost is not None:
            raise SavingError(
                f"{path}: '{lost}' is computed where the model is made, and never saved; on the "
                "meta device it has no values, so make the model on a real one"
            )
        model.to_empty(device="cpu")
        named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named:
        dtype = getattr(torch, manifest.unsaved.get(name, ""), tensor.dtype)
        dtype = state[name].dtype if name in state else dtype
        if tensor.dtype != dtype:
            tensor.data = tensor.data.to(dtype)


def _extra(model: nn.Module, manifest: Manifest) -> dict[str, Any]:
    here = model.state_dict()
    return {key: value for key, value in manifest.extra.items() if key in here}


def _rewritten(
    whole: nn.Module,
    part: Part,
    target: Target,
    tensors: Mapping[str, Tensor],
    example_inputs: Any,
    path: Any,
) -> nn.Module:
    """``whole`` with one part rewritten again, as it was."""
    digital = whole.get_submodule(part.path)
    example = example_inputs
    if example is None and part.example is not None:
        args, kwargs = unflatten(part.example, tensors)
        example = (args, kwargs) if args and kwargs else kwargs or args
    try:
        rewritten = analogize(
            digital,
            target,
            example_inputs=example,
            digital=part.chosen,
            inplace=True,
            capture=part.front_end,  # type: ignore[arg-type]
        )
    except AnalogizeError as cause:
        where = f"part '{part.path}'" if part.path else "the model"
        raise SavingError(f"{path}: {where} cannot be rewritten again: {cause}") from cause
    _take_regions(rewritten, part, path)
    if not part.path:
        return rewritten
    parent, _, name = part.path.rpartition(".")
    whole.get_submodule(parent).register_module(name, rewritten)
    return whole


def _take_regions(module: nn.Module, part: Part, path: Any) -> None:
    """The saved records of operators and report, once the operators are the same ones."""
    ops = operators(module)
    for op, saved in zip(ops, part.regions, strict=False):
        here, there = (
            (r.name, r.operator, r.weight, tuple(r.weight_shape)) for r in (op.region, saved)
        )
        if here != there:
            raise SavingError(
                f"{path}: rewriting gave the region {here} where the file has {there}; the model's "
                "code, or analogize, is another than when it was saved"
            )
        op.region = saved
    if len(ops) != len(part.regions):
        raise SavingError(
            f"{path}: rewriting gave {len(ops)} regions, and the file has {len(part.regions)}; the "
            "model's code, or analogize, is another than when it was saved"
        )
    report: Report = module.__dict__["report"]
    module.__dict__["report"] = replace(
        report,
        digital=part.digital,
        total_macs=part.total_macs,
        samples=part.samples,
        log=part.log,
        declined=part.declined,
    )


def _load_all(model: nn.Module, state: dict[str, Any], path: Any) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, AnalogizeError) as cause:
        raise SavingError(f"{path}: {cause}") from cause
