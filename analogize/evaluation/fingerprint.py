"""What decides a Monte Carlo run: chip seeds and digests, the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from analogize.evaluation import Fingerprint
from analogize.ops import operators
from analogize.sharding import whole


def chip_seed(seed: int, index: int) -> int:
    """The seed of chip ``index`` of the run ``seed``: a hash, so neighbours share nothing.

    Args:
        seed: The run's seed.
        index: The chip's number, from 0.

    Returns:
        63 bits, for ``program``.
    """
    digest = hashlib.blake2b(f"chip {index} of {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def fingerprint(
    model: nn.Module,
    seed: int,
    etas: Iterable[float | None],
    metric: str,
    times: Iterable[float | None] = (None,),
    deployment: str = "",
) -> Fingerprint:
    """What the values of a run depend on, data excepted.

    Args:
        model: A rewritten model.
        seed: The run's seed.
        etas: Noise levels, None for the target's own.
        metric: Name and settings of the metric.
        times: Seconds between programming and measuring; None where they were not asked for.
        deployment: What else happens to a chip before it is measured.
    """
    return Fingerprint(
        seed=seed,
        etas=tuple(etas),
        metric=metric,
        drift_times=tuple(time for time in times if time is not None),
        deployment=deployment,
        target=target_digest(model),
        weights=_weights_digest(model),
    )


def differences(now: Fingerprint, before: Fingerprint) -> list[str]:
    """What two runs differ in, a phrase each; empty if one can continue the other."""
    named = {
        "seed": f"seed {before.seed} instead of {now.seed}",
        "etas": f"noise levels {_levels(before)} instead of {_levels(now)}",
        "drift_times": f"times {before.drift_times} instead of {now.drift_times}",
        "deployment": f"'{before.deployment}' instead of '{now.deployment}'",
        "metric": f"metric {before.metric} instead of {now.metric}",
        "target": "another target (noise, converters or grids)",
        "weights": "other weights or calibrated ranges",
    }
    return [text for key, text in named.items() if getattr(now, key) != getattr(before, key)]


def _levels(of: Fingerprint) -> str:
    return ", ".join("the target's" if eta is None else f"{eta:g}" for eta in of.etas)


def target_digest(model: nn.Module) -> str:
    """Digest of every operator's noise, converters and grids, without calibrated ranges."""
    digest = hashlib.blake2b(digest_size=16)
    for op in operators(model):
        array = op.array
        parts = (op.region.name, array.name, array.bits, array.kind, array.noise)
        devices = (array.conductance, array.compensation)
        converters = (op.dac.settings, op.adc.settings, op.tile_size)
        digest.update(f"{parts!r} {devices!r} {converters!r}\n".encode())
    return digest.hexdigest()


def _weights_digest(model: nn.Module) -> str:
    """Every entry of the ``state_dict`` by name, type, shape and bytes; whole ones of shards."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        raw = whole(value).detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()
