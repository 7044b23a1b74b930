"""What tells that a state dict was saved for another target: a digest of what it says of a region.

It is a buffer, so that it survives formats which drop what torch keeps beside a state dict
(safetensors, distributed checkpoints, a dictionary made by hand), and tools that put buffers in
place without ``load_state_dict``.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from analogize.crossbar.ops import AnalogOp

KEY = "target_digest"
_BYTES = 8


def sign(op: AnalogOp) -> None:
    """Have ``op`` tell its target in every state dict; an ideal one has nothing to tell."""
    op.digest = _digest_of(op)
    stages = op.dac.bits, op.adc.bits, op.array.settings.range
    tells = any(each is not None for each in stages) or not op.array.is_silent
    op.register_buffer(KEY, as_tensor(op.digest, op.array.range.device), persistent=tells)
    op.register_load_state_dict_pre_hook(_complete)  # type: ignore[no-untyped-call]


def _complete(
    op: AnalogOp, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    """A digital model's state dict has none; loading.py has compared any other."""
    if KEY in op._non_persistent_buffers_set:
        return
    told = op.target_digest
    if told.is_meta and metadata.get("assign_to_params_buffers"):
        told = as_tensor(op.digest, torch.device("cpu"))
    state.setdefault(prefix + KEY, told)


def _digest_of(op: AnalogOp) -> str:
    """Digest of what the target says of one region; defaults that are added later change none."""
    array = op.array
    said = [array.settings, op.dac.settings, op.adc.settings, op.tile_size, array.conductance]
    plain = [
        None if one is None else one.model_dump(mode="json", exclude_defaults=True)
        for one in (*said, *array.noise)
    ]
    text = json.dumps([plain, array.compensation], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).hexdigest()


def as_tensor(digest: str, device: torch.device) -> Tensor:
    """A digest as a tensor of 64 numbers, 255 for every bit that is set and 0 for the others.

    Averages of weights take buffers for numbers: of equal ones they stay near what they were.
    """
    number = int(digest, 16)
    bits = [255 * (number >> k & 1) for k in range(8 * _BYTES)]
    return torch.tensor(bits, dtype=torch.uint8, device=device)


def from_tensor(value: object) -> str | None:
    """The digest in an entry of a state dict; None where there is none."""
    if not isinstance(value, Tensor) or value.is_meta or value.numel() != 8 * _BYTES:
        return None
    bits = enumerate((value.flatten().float() > 127).tolist())
    return f"{sum(is_set << k for k, is_set in bits):0{2 * _BYTES}x}"
