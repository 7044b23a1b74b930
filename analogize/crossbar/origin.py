"""Which chip an array holds, in a word."""

from __future__ import annotations

import hashlib

import numpy as np

from analogize.crossbar.chip_data import ArrayData
from analogize.crossbar.conductances import Drawn


def digest_of(origin: Drawn | ArrayData) -> str:
    """Tells a chip from others, and from itself at another time; given ones by their cells."""
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(origin, Drawn):
        when = origin.reading
        conditions = sorted((name, float(value)) for name, value in when.conditions.items())
        said = when.draws.key, float(when.time), when.cycle, conditions
        digest.update(repr(said).encode())
    else:
        for held in (origin.conductances, origin.deviation):
            digest.update(b"none" if held is None else np.ascontiguousarray(held).tobytes())
    return digest.hexdigest()
