"""What ties a chip to its number, its regions and the weights it was programmed from."""

from __future__ import annotations

import hashlib

from torch import Tensor


def region_seed(seed: int, name: str) -> int:
    """The seed of one region's draw: a hash, so that no order of visiting matters."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def version(weight: Tensor) -> int:
    """How often ``weight`` was written to; -1 for inference tensors, which do not count."""
    return -1 if weight.is_inference() else weight._version
