"""Loading a state dict into a rewritten model: whose ranges it brings, and for which target.

Before anything of a part is loaded, all of it is looked at. Ranges that the target fixes stay
fixed, and a state dict that was saved for another target is refused. Of a digital model's state
dict, which brings weights without ranges, the ranges are found anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from analogize.crossbar.array import WeightArray
from analogize.crossbar.chip import weight_of
from analogize.crossbar.converter import FixedRange
from analogize.crossbar.ops import AnalogOp, operators
from analogize.crossbar.pretrained import guard
from analogize.crossbar.signature import KEY, from_tensor
from analogize.crossbar.stale import is_found
from analogize.crossbar.weight_range import find_range
from analogize.errors import ChipError, SavingError
from analogize.model.offloading import refuse_offloaded
from analogize.model.parts import report_of

logger = logging.getLogger("analogize")

_WAY_OUT = (
    "rewrite the model for the target it was saved for, or take the weights alone: "
    "model.load_state_dict(digital_state(other)), then calibrate(model, loader)"
)


def renew_ranges(model: nn.Module) -> None:
    """Find every weight range anew, from the weights as they are now and by the target's rule.

    For a model whose weights were replaced or merged after it was rewritten. Fixed ranges stay;
    programmed chips are erased. The ranges of converters are those of the former weights'
    activations: ``calibrate(model, loader)`` finds them anew.

    Raises:
        ChipError: the model has no analog operator.
        OffloadError: accelerate has offloaded the weights.
        PassError: weights that give no range; no range is changed then.
    """
    ops = operators(model)
    if not ops:
        raise ChipError(
            f"{type(model).__name__} has no analog operator; rewrite it with analogize() first"
        )
    refuse_offloaded(model)
    found: dict[WeightArray, Tensor] = {}
    for op in ops:
        if op.array not in found and _is_found(op.array):
            array = op.array
            found[array] = find_range(weight_of(op), array.product, array.settings, array.name)
    for array, ends in found.items():
        array.range = ends.float()
        array.refresh()
        array.erase()
    for op in ops:
        op.refresh()


def watch_loading(root: nn.Module) -> None:
    """Have ``root``, the rewritten model, look at what it is to load; once is enough."""
    hooks = root._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, "hook", None) is _before_loading for hook in hooks):
        root.register_load_state_dict_pre_hook(_before_loading)  # type: ignore[no-untyped-call]
        root.register_state_dict_post_hook(_sign)  # type: ignore[no-untyped-call]


def _sign(root: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Write the target's name and digest beside the state, where torch keeps versions."""
    guard()
    report = report_of(root)
    target = "unknown" if report is None else report.target
    metadata["analogize"] = {"target": target, "digests": _digests(root)}


def _digests(root: nn.Module) -> dict[str, str]:
    return {op.region.name: op.digest for op in operators(root)}


def _before_loading(
    root: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    signature = metadata.get("analogize")
    _require_same_target(root, signature if isinstance(signature, dict) else {}, state, prefix)
    _require_fitting_ranges(root, state, prefix)
    _renew(root, state, prefix)


def _require_same_target(
    root: nn.Module, signature: dict[str, Any], state: dict[str, Any], prefix: str
) -> None:
    noted = signature.get("digests")
    before: dict[str, Any] = noted if isinstance(noted, dict) else {}
    paths = {id(m): path for path, m in root.named_modules()}
    for op in operators(root):
        entry = state.get(prefix + f"{paths[id(op)]}.{KEY}".lstrip("."))
        if before.get(op.region.name, op.digest) != op.digest:
            raise _other_target(root, op, signature.get("target"))
        # A distributed checkpoint is read into the model's own state dict, its metadata included.
        if entry is not None and from_tensor(entry) != op.digest:
            raise _other_target(root, op, None)


def _other_target(root: nn.Module, op: AnalogOp, target: object) -> SavingError:
    report = report_of(root)
    here = "unknown" if report is None else report.target
    there = f"the target '{target}'" if target else "another target"
    return SavingError(
        f"the state dict was saved for {there}, whose settings of region '{op.region.name}' are "
        f"others than those of this model's target '{here}': {_WAY_OUT}"
    )


def _ranges(root: nn.Module, prefix: str) -> Iterator[tuple[str, FixedRange]]:
    for path, module in root.named_modules(remove_duplicate=False):
        if isinstance(module, FixedRange):
            yield f"{prefix}{path}.range" if path else f"{prefix}range", module


def _require_fitting_ranges(root: nn.Module, state: dict[str, Any], prefix: str) -> None:
    report = report_of(root)
    target = "unknown" if report is None else report.target
    for key, module in _ranges(root, prefix):
        given = state.get(key)
        if not isinstance(given, Tensor) or module.range.is_meta or given.is_meta:
            continue
        if given.shape != module.range.shape:
            raise SavingError(
                f"'{key}' of the state dict has shape {tuple(given.shape)}, and the target "
                f"'{target}' gives this range the shape {tuple(module.range.shape)}: {_WAY_OUT}"
            )
        if not _is_found(module) and not torch.equal(given.to(module.range), module.range):
            raise SavingError(
                f"'{key}' of the state dict is {given.tolist()}, and the target '{target}' fixes "
                f"it at {module.range.tolist()}: {_WAY_OUT}"
            )


def _is_found(module: FixedRange) -> bool:
    return is_found(module.settings)  # type: ignore[arg-type]


def _renew(root: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Find the ranges of weights that come without them, if they are others than before."""
    paths = {id(m): path for path, m in root.named_modules()}
    renewed: list[tuple[AnalogOp, Tensor]] = []
    for op in operators(root):
        array, path = op.array, paths[id(op)]
        key = prefix + f"{path}.array.range".lstrip(".")
        if key in state or not _is_found(array) or array.is_pending:
            continue
        ends = _range_to_come(root, op, state, prefix)
        if ends is not None:
            renewed.append((op, ends))
    for op, ends in renewed:
        op.array.range = ends
        op.array.refresh()
        op.refresh()
    kept = [op.region.name for op, _ in renewed if op.dac.wants_calibration]
    if kept:
        logger.warning(
            "weights without ranges were loaded: their ranges were found anew, and the converters "
            "of %s keep those of the former weights' activations; call calibrate(model, loader)",
            ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else ""),
        )


def _range_to_come(
    root: nn.Module, op: AnalogOp, state: dict[str, Any], prefix: str
) -> Tensor | None:
    """The range of the weights in ``state``; None for the former, NaN to be found at first use."""
    array = op.array
    tensors = {**dict(root.named_parameters(remove_duplicate=False)), **dict(root.named_buffers())}
    mine = tuple(start for name in op.stored.names for start in _starts(name))
    known = {k: v for k, v in tensors.items() if k in op.stored.names or k.startswith(mine)}
    given = {k: state[prefix + k] for k in known if isinstance(state.get(prefix + k), Tensor)}
    if all(_same(value, known[k]) for k, value in given.items()):
        return None
    weight = given.get(op.region.weight)
    if weight is None or op.stored.expression is not None or not _is_plain(weight):
        return torch.full_like(array.range, torch.nan)
    if weight.shape != array.shape:
        return None  # torch says so itself
    return find_range(weight.to(array.range.device), array.product, array.settings, array.name)


def _starts(name: str) -> tuple[str, str]:
    """How the names of what a weight is computed from begin: torch's older form, and its newer."""
    owner, _, last = name.rpartition(".")
    inner = f"{owner}." if owner else ""
    return f"{inner}{last}_", f"{inner}parametrizations.{last}."


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta


def _same(given: Tensor, tensor: Tensor) -> bool:
    if not _is_plain(given) or tensor.is_meta or given.shape != tensor.shape:
        return False
    return torch.equal(given.detach().to(tensor), tensor.detach())
