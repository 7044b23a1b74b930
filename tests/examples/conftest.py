"""Made-up images in the layouts that the examples read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with 40 random training and 40 test images in MNIST's own format."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("train", "t10k"):
        images = generator.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        header = struct.pack(">HBBIII", 0, 8, 3, *images.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(40, dtype=np.uint8) % 10
        header = struct.pack(">HBBI", 0, 8, 1, 40)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return tmp_path
