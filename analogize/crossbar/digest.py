"""Digests of what a rewritten model is: its operators' settings, and its state."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from analogize.crossbar.located import located
from analogize.crossbar.ops import AnalogOp
from analogize.crossbar.signature import KEY
from analogize.model.sharding import whole


def target_digest(model: nn.Module) -> str:
    """Digest of every operator's noise, converters and grids, without calibrated ranges."""
    digest = hashlib.blake2b(digest_size=16)
    for op, region, name in located(model):
        array = op.array
        parts = (region.name, name, array.bits, array.kind, array.noise)
        devices = (array.conductance, array.compensation)
        converters = (op.dac.settings, op.adc.settings, op.tile_size)
        digest.update(f"{parts!r} {devices!r} {converters!r}\n".encode())
    return digest.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Every entry of the ``state_dict`` by name, type, shape and bytes; whole ones of shards.

    Without what tells the target there: ``target_digest`` does.
    """
    digest = hashlib.blake2b(digest_size=16)
    told = tuple(f"{path}.{KEY}" for path, m in model.named_modules() if isinstance(m, AnalogOp))
    for name, value in model.state_dict().items():
        if name in told:
            continue
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        raw = whole(value).detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
