"""Where a chip's random numbers come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Named, independent random draws of one array.

    With a ``key`` every name has a generator of its own, seeded by key and name on the CPU: the
    same device keeps its drift exponent when the chip is read at another time, and adding a model
    changes no other model's draws. Without a key everything is drawn anew from torch's global
    generator.

    Attributes:
        key: what identifies the chip's array, or None.
    """

    key: str | None = None

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Independent N(0, 1) values with the shape, dtype and device of ``like``."""
        if self.key is None:
            return torch.randn_like(like)
        drawn = torch.randn(like.shape, generator=self.generator(name), dtype=torch.float32)
        return drawn.to(like.device, like.dtype)

    def uniform(self, name: str, like: Tensor) -> Tensor:
        """Independent values, uniform in [0, 1), with the shape and device of ``like``."""
        if self.key is None:
            return torch.rand_like(like)
        drawn = torch.rand(like.shape, generator=self.generator(name), dtype=torch.float32)
        return drawn.to(like.device, like.dtype)

    def generator(self, name: str) -> torch.Generator | None:
        """The generator of the draw ``name``; None for torch's global one."""
        if self.key is None:
            return None
        digest = hashlib.blake2b(f"{self.key}/{name}".encode(), digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
